//! The subscription that an account has in Stripe at this moment.

use schema::{AccountId, standing::SubscriptionStatus};
use sqlx::{Postgres, Transaction};
use stripe_billing::{
    subscription::{ListSubscription, ListSubscriptionStatus, UpdateSubscription},
    subscription_schedule::{ReleaseSubscriptionSchedule, RetrieveSubscriptionSchedule},
};

use super::mirror::plan_of;
use crate::{
    billing::Billing,
    customers,
    error::Error,
    stripe::{
        Write,
        object::{List, Schedule, Subscription, subscription::Item},
    },
};

pub struct Running {
    pub customer: String,
    pub subscription: Subscription,
    /// A change that is planned.
    pub schedule: Option<Schedule>,
}

impl Running {
    /// Fails where the account has none.
    pub async fn find(billing: &Billing, account: AccountId) -> Result<Self, Error> {
        let customer = customers::find(&billing.admin.db, account).await?;
        Self::of_customer(billing, customer.ok_or(Error::NotSubscribed)?).await
    }

    /// The same in a transaction that holds the subscription's lock.
    pub async fn find_locked(
        tx: &mut Transaction<'_, Postgres>,
        billing: &Billing,
        account: AccountId,
    ) -> Result<Self, Error> {
        let customer = customers::find(&mut **tx, account).await?;
        Self::of_customer(billing, customer.ok_or(Error::NotSubscribed)?).await
    }

    async fn of_customer(billing: &Billing, customer: String) -> Result<Self, Error> {
        let stripe = billing.stripe()?;
        let list = ListSubscription::new()
            .customer(customer.as_str())
            .status(ListSubscriptionStatus::All)
            .limit(100);
        let page: List<Subscription> = stripe.read(&list).await?;
        // As the mirror picks it: the newest that is live.
        let live = page.data.into_iter().filter(|subscription| {
            is_live(subscription)
                && subscription
                    .items
                    .data
                    .iter()
                    .any(|item| plan_of(&item.price).is_some())
        });
        let subscription = live
            .max_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)))
            .ok_or(Error::NotSubscribed)?;
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

    /// Asks again.
    pub async fn is_live_still(&self, billing: &Billing) -> Result<bool, Error> {
        match Self::of_customer(billing, self.customer.clone()).await {
            Ok(now) => Ok(now.subscription.id == self.subscription.id),
            Err(Error::NotSubscribed) => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub fn plan(&self) -> Option<&str> {
        plan_of(&self.plan_item()?.price)
    }

    pub fn status(&self) -> Option<SubscriptionStatus> {
        SubscriptionStatus::from_stored(&self.subscription.status)
    }

    pub fn currency(&self) -> &str {
        self.plan_item()
            .map_or(crate::stripe::catalogue::CURRENCY, |item| &item.price.currency)
    }

    pub fn period_start(&self) -> i64 {
        self.plan_item()
            .map_or(self.subscription.created, |item| item.current_period_start)
    }

    pub fn period_end(&self) -> i64 {
        self.plan_item()
            .map_or(self.subscription.created, |item| item.current_period_end)
    }

    /// Takes back what is planned: another plan, or the end.
    pub async fn take_back(&self, billing: &Billing) -> Result<(), Error> {
        self.release_schedule(billing).await?;
        if self.subscription.cancel_at.is_some() {
            let update = UpdateSubscription::new(self.subscription.id.as_str()).cancel_at_period_end(false);
            billing
                .stripe()?
                .write::<Subscription>(&update, Write::Settable)
                .await?;
        }
        Ok(())
    }

    /// The subscription goes on as it is.
    pub async fn release_schedule(&self, billing: &Billing) -> Result<(), Error> {
        if let Some(schedule) = &self.schedule {
            let release = ReleaseSubscriptionSchedule::new(schedule.id.as_str());
            billing
                .stripe()?
                .write::<serde_json::Value>(&release, Write::Settable)
                .await?;
        }
        Ok(())
    }

    fn plan_item(&self) -> Option<&Item> {
        let mut items = self.subscription.items.data.iter();
        items.find(|item| !item.price.is_metered() && plan_of(&item.price).is_some())
    }
}

fn is_live(subscription: &Subscription) -> bool {
    SubscriptionStatus::from_stored(&subscription.status).is_some_and(SubscriptionStatus::is_live)
}
