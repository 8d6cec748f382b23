//! The subscription that an account has in Stripe now.

use schema::{AccountId, Interval, subscription::SubscriptionStatus};
use sqlx::PgExecutor;
use stripe_billing::subscription_schedule::RetrieveSubscriptionSchedule;

use super::listing;
use crate::{
    accounts::customers,
    error::Error,
    stripe::object::{Schedule, Subscription, subscription::Item},
    subscriptions::billing::Billing,
};

pub struct Running {
    pub customer: String,
    pub subscription: Subscription,
    /// The schedule of a planned change.
    pub schedule: Option<Schedule>,
}

impl Running {
    /// Fails if the account has none.
    pub async fn find(db: impl PgExecutor<'_>, billing: &Billing, account: AccountId) -> Result<Self, Error> {
        let customer = customers::find(db, account, billing.stripe()?.is_live()).await?;
        Self::of_customer(billing, customer.ok_or(Error::NotSubscribed)?).await
    }

    /// Whether any of the customer's subscriptions, ended ones too, had a trial.
    pub async fn has_had_trial(billing: &Billing, customer: &str) -> Result<bool, Error> {
        let all = listing::all(billing.stripe()?, customer).await?;
        Ok(all.iter().any(|subscription| subscription.trial_end.is_some()))
    }

    pub async fn of_customer(billing: &Billing, customer: String) -> Result<Self, Error> {
        let stripe = billing.stripe()?;
        let all = listing::all(stripe, &customer).await?;
        let subscription = listing::current(&all).cloned().ok_or(Error::NotSubscribed)?;
        let schedule = match &subscription.schedule {
            Some(schedule) => {
                let schedule: Schedule = stripe.read(&RetrieveSubscriptionSchedule::new(schedule.id())).await?;
                Some(schedule).filter(Schedule::is_active)
            }
            None => None,
        };
        Ok(Self {
            customer,
            subscription,
            schedule,
        })
    }

    pub fn plan(&self) -> Option<&str> {
        self.subscription.plan_item()?.price.plan()
    }

    pub fn status(&self) -> Option<SubscriptionStatus> {
        SubscriptionStatus::from_stored(&self.subscription.status)
    }

    /// Whether a larger plan waits for its payment.
    pub fn has_pending_upgrade(&self) -> bool {
        self.subscription.pending_update.is_some()
    }

    pub fn is_trial(&self) -> bool {
        self.status() == Some(SubscriptionStatus::Trialing)
    }

    pub fn currency(&self) -> &str {
        self.plan_item()
            .map_or(crate::stripe::catalogue::CURRENCY, |item| &item.price.currency)
    }

    /// How often the plan is paid for. `None`: for an interval that no plan is sold for.
    pub fn interval(&self) -> Option<Interval> {
        let months = self.plan_item().map_or(1, |item| item.price.interval_months());
        Interval::from_months(months)
    }

    pub fn period_start(&self) -> i64 {
        self.plan_item()
            .map_or(self.subscription.created, |item| item.current_period_start)
    }

    pub fn period_end(&self) -> i64 {
        self.plan_item()
            .map_or(self.subscription.created, |item| item.current_period_end)
    }

    /// Whether it bills anything by the unit.
    pub fn is_metered(&self) -> bool {
        self.subscription.items.data.iter().any(|item| item.price.is_metered())
    }

    /// The items that bill usage by the unit, those of an earlier plan too.
    pub fn metered(&self) -> impl Iterator<Item = &Item> {
        let items = self.subscription.items.data.iter();
        items.filter(|item| item.price.usage_type().is_some())
    }

    pub fn plan_item(&self) -> Option<&Item> {
        self.subscription.plan_item()
    }
}
