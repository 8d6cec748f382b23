//! Metered items of an earlier plan. They stay until the invoice of its last period is final, so that late usage is billed at its own
//! prices. Then a task removes them: nothing is reported to their meters any more.

use schema::{AccountId, Mode};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::{Postgres, Transaction};
use stripe_billing::subscription::{UpdateSubscription, UpdateSubscriptionItems, UpdateSubscriptionProrationBehavior};
use tracing::info;

use super::{billing::Billing, current, mirrored::Mirrored, periods, planned::Planned, running::Running};
use crate::{
    error::Error,
    stripe::{
        Write,
        object::{Subscription, subscription::Item},
    },
    tasks::repository::{self, TaskKind},
};

/// A subscription with metered items of an earlier plan, as a task stores it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leftover {
    /// In Stripe.
    pub customer: String,
    /// In Stripe.
    pub subscription: String,
}

impl Leftover {
    pub fn from_args(args: &serde_json::Value) -> Result<Self, serde_json::Error> {
        Self::deserialize(args)
    }

    /// Stores a task if the subscription has metered items in another slot than that of the running segment.
    pub(super) async fn find(
        tx: &mut Transaction<'_, Postgres>,
        account: AccountId,
        customer: &str,
        of: &Mirrored,
        slot: i16,
    ) -> Result<(), Error> {
        let mut metered = of.items.iter().filter(|item| item.usage_type.is_some());
        if !of.is_live() || metered.all(|item| item.meter_slot == slot) {
            return Ok(());
        }
        let leftover = Self {
            customer: customer.to_owned(),
            subscription: of.stripe_id.clone(),
        };
        repository::plan(&mut **tx, account, TaskKind::RemoveItems, &json!(leftover)).await
    }

    /// Removes the items of earlier plans, once all of their usage is billed. `false`: it is not yet.
    pub async fn remove(&self, billing: &Billing, account: AccountId) -> Result<bool, Error> {
        let known = periods::known(&billing.admin.db, account, &self.subscription).await?;
        let Some(last) = known.last() else {
            return Ok(true);
        };
        if known.iter().any(|one| one.slot != last.slot && !one.is_final) {
            return Ok(false);
        }
        let running = match Running::of_customer(billing, self.customer.clone()).await {
            Ok(running) if running.subscription.id == self.subscription => running,
            Ok(_) | Err(Error::NotSubscribed) => return Ok(true),
            Err(failure) => return Err(failure),
        };
        let (running_items, others): (Vec<_>, Vec<_>) =
            running.metered().partition(|item| item.price.meter_slot() == last.slot);
        let current = current::subscriptions(&billing.admin.db, &[account]).await?;
        let version = current.get(&account).and_then(|current| current.version.as_ref());
        let is_billed = |usage_type: &str| {
            let allowance = version.map(|version| version.terms.usage.get(usage_type));
            allowance.is_none_or(|allowance| allowance.is_some_and(|allowance| allowance.mode != Mode::Limited))
        };
        let is_of_plan =
            |item: &&Item| item.price.plan() == running.plan() && item.price.usage_type().is_some_and(&is_billed);
        // A person may have added the prices of the plan in Stripe, for other meters.
        if others.is_empty() || running_items.is_empty() && others.iter().any(is_of_plan) {
            return Ok(true);
        }
        let billed: Vec<_> = others.iter().map(|item| item.id.clone()).collect();
        // The next plan would add them again.
        if matches!(running.planned(), Planned::Plan(_)) {
            return Ok(false);
        }
        let items = billed.iter().map(|id| {
            let mut item = UpdateSubscriptionItems::new();
            (item.id, item.deleted) = (Some(id.clone()), Some(true));
            item
        });
        let update = UpdateSubscription::new(self.subscription.as_str())
            .items(items.collect::<Vec<_>>())
            .proration_behavior(UpdateSubscriptionProrationBehavior::CreateProrations);
        billing
            .stripe()?
            .write::<Subscription>(&update, Write::Settable)
            .await?;
        info!(account.id = %account, stripe_subscription.id = self.subscription, items = ?billed, "removed the metered items of an earlier plan");
        Ok(true)
    }
}
