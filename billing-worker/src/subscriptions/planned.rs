//! Planned changes of a subscription: another plan from the next period on, or its end. Reads them, plans them and undoes them.

use schema::AccountId;
use serde::{Deserialize, Serialize};
use stripe_billing::{
    SubscriptionScheduleEndBehavior,
    subscription::{UpdateSubscription, UpdateSubscriptionCancelAt},
    subscription_schedule::{
        CreateSubscriptionSchedule, ReleaseSubscriptionSchedule, RetrieveSubscriptionSchedule,
        UpdateSubscriptionSchedule, UpdateSubscriptionSchedulePhases, UpdateSubscriptionSchedulePhasesEndDate,
        UpdateSubscriptionSchedulePhasesItems, UpdateSubscriptionSchedulePhasesProrationBehavior,
        UpdateSubscriptionSchedulePhasesStartDate,
    },
};
use stripe_client_core::{RequestBuilder, StripeMethod, StripeRequest};
use uuid::Uuid;

use super::running::Running;
use crate::{
    error::Error,
    stripe::{
        StripeError, Write, catalogue,
        object::{Schedule, Subscription},
    },
    subscriptions::billing::Billing,
};

/// A price of a phase and its quantity; `None`: a metered price.
pub type Priced = (String, Option<u64>);

/// What is planned for a subscription.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Planned {
    Nothing,
    /// A plan with these prices, from the next period on. Sorted.
    Plan(Vec<Priced>),
    /// Its end.
    End {
        at: i64,
        /// It was cancelled at the end of its period, and not at a time.
        with_period: bool,
    },
}

impl Planned {
    pub fn plan(mut prices: Vec<Priced>) -> Self {
        prices.sort_unstable();
        Self::Plan(prices)
    }
}

/// Clears `cancel_at`, for which the typed request has no value.
struct WithoutEnd<'a> {
    subscription: &'a str,
}

#[derive(Serialize)]
struct NoEnd {
    cancel_at: &'static str,
}

impl StripeRequest for WithoutEnd<'_> {
    type Output = ();

    fn build(&self) -> RequestBuilder {
        RequestBuilder::new(StripeMethod::Post, format!("/subscriptions/{}", self.subscription))
            .form(&NoEnd { cancel_at: "" })
    }
}

impl Running {
    /// Whether another plan or the end is planned.
    pub fn has_planned_change(&self) -> bool {
        self.schedule.is_some() || self.subscription.cancel_at.is_some()
    }

    /// What is planned. A schedule without a next phase plans nothing.
    pub fn planned(&self) -> Planned {
        let next = self
            .schedule
            .as_ref()
            .and_then(|schedule| schedule.phase_from(self.period_end()));
        if let Some(phase) = next {
            let prices = phase
                .items
                .iter()
                .map(|item| (item.price.id().to_owned(), item.quantity));
            return Planned::plan(prices.collect());
        }
        match self.subscription.cancel_at {
            Some(at) => Planned::End {
                at,
                with_period: self.subscription.cancel_at_period_end,
            },
            None => Planned::Nothing,
        }
    }

    /// Plans these prices from the next period on, by a schedule of two phases: the running one to its end, then this one,
    /// without an end. The caller makes sure that nothing else is planned. If it stops in between, a schedule without a next
    /// phase is left, which changes nothing.
    pub async fn plan_next(&self, billing: &Billing, account: AccountId, next: &[Priced]) -> Result<(), Error> {
        let stripe = billing.stripe()?;
        // An earlier version of this service deactivated prices that subscriptions have, and a person may do so too.
        let items = self.subscription.items.data.iter();
        for item in items.filter(|item| !item.price.active) {
            catalogue::activate(stripe, &item.price.id).await?;
        }
        let create = CreateSubscriptionSchedule::new().from_subscription(self.subscription.id.clone());
        let key = format!("schedule-{account}-{}", Uuid::now_v7());
        let schedule: Schedule = stripe.write(&create, Write::Keyed(&key)).await?;
        let now_items = self.subscription.items.data.iter();
        // The running phase changes nothing.
        let now_items = now_items.map(|item| phase_item(&item.price.id, item.quantity));
        let mut running = UpdateSubscriptionSchedulePhases::new(now_items.collect::<Vec<_>>());
        let start = schedule
            .phases
            .first()
            .map_or(self.period_start(), |phase| phase.start_date);
        running.start_date = Some(UpdateSubscriptionSchedulePhasesStartDate::Timestamp(start));
        running.end_date = Some(UpdateSubscriptionSchedulePhasesEndDate::Timestamp(self.period_end()));
        let next = next.iter().map(|(price, quantity)| phase_item(price, *quantity));
        let mut following = UpdateSubscriptionSchedulePhases::new(next.collect::<Vec<_>>());
        let Ok(currency) = self.currency().parse::<stripe_types::Currency>();
        (running.currency, following.currency) = (Some(currency.clone()), Some(currency));
        following.start_date = Some(UpdateSubscriptionSchedulePhasesStartDate::Timestamp(self.period_end()));
        // It begins with a period, so there is nothing to prorate.
        following.proration_behavior = Some(UpdateSubscriptionSchedulePhasesProrationBehavior::CreateProrations);
        let update = UpdateSubscriptionSchedule::new(schedule.id.as_str())
            .phases(vec![running, following])
            .end_behavior(SubscriptionScheduleEndBehavior::Release);
        stripe.write::<serde_json::Value>(&update, Write::Settable).await?;
        Ok(())
    }

    /// Plans its end. A time that has passed becomes the end of the running period.
    pub async fn plan_end(&self, billing: &Billing, at: i64, with_period: bool) -> Result<(), Error> {
        let update = UpdateSubscription::new(self.subscription.id.as_str());
        let update = match with_period || at <= billing.clock.now_s() {
            true => update.cancel_at_period_end(true),
            false => update.cancel_at(UpdateSubscriptionCancelAt::Timestamp(at)),
        };
        billing
            .stripe()?
            .write::<Subscription>(&update, Write::Settable)
            .await?;
        Ok(())
    }

    /// Undoes all planned changes.
    pub async fn take_back(&self, billing: &Billing) -> Result<(), Error> {
        self.release_schedule(billing).await?;
        self.keep(billing).await
    }

    /// The subscription continues as it is, without a schedule.
    pub async fn release_schedule(&self, billing: &Billing) -> Result<(), Error> {
        match &self.schedule {
            None => Ok(()),
            Some(schedule) => release(billing, schedule).await,
        }
    }

    /// Removes the planned end of the subscription. The portal cancels at a time, this service at the period's end: each is
    /// undone differently.
    pub async fn keep(&self, billing: &Billing) -> Result<(), Error> {
        let (stripe, id) = (billing.stripe()?, self.subscription.id.as_str());
        if self.subscription.cancel_at.is_none() {
            return Ok(());
        }
        let kept: Subscription = match self.subscription.cancel_at_period_end {
            true => {
                let update = UpdateSubscription::new(id).cancel_at_period_end(false);
                stripe.write(&update, Write::Settable).await?
            }
            false => stripe.write(&WithoutEnd { subscription: id }, Write::Settable).await?,
        };
        match kept.cancel_at {
            None => Ok(()),
            Some(_) => Err(Error::Conflict(
                "Stripe still ends the subscription: keep it in the customer portal (POST /billing/portal-session)"
                    .to_owned(),
            )),
        }
    }
}

async fn release(billing: &Billing, schedule: &Schedule) -> Result<(), Error> {
    let stripe = billing.stripe()?;
    let release = ReleaseSubscriptionSchedule::new(schedule.id.as_str());
    match stripe.write::<serde_json::Value>(&release, Write::Settable).await {
        Ok(_) => Ok(()),
        Err(StripeError::Refused(refusal)) => {
            // An earlier attempt released it, and its response was lost: a schedule is released once.
            let retrieve = RetrieveSubscriptionSchedule::new(schedule.id.as_str());
            match stripe.read::<Schedule>(&retrieve).await?.is_active() {
                false => Ok(()),
                true => Err(StripeError::Refused(refusal).into()),
            }
        }
        Err(error) => Err(error.into()),
    }
}

fn phase_item(price: &str, quantity: Option<u64>) -> UpdateSubscriptionSchedulePhasesItems {
    let mut item = UpdateSubscriptionSchedulePhasesItems::new();
    (item.price, item.quantity) = (Some(price.to_owned()), quantity);
    item
}
