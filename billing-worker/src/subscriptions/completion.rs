//! The second half of an upgrade. Its first call to Stripe changes the price of the plan, and only that: Stripe can hold such a change
//! back until it is paid. Once the larger plan has begun, the metered prices of the plan are added, for the meters of a slot of its
//! own. The metered items of the smaller plan stay until its usage is billed.
//!
//! A task is stored before the first call. It knows when the larger plan begins and which slot it has, until both are stored with the
//! subscription.

use schema::AccountId;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgExecutor;
use stripe_billing::subscription::{UpdateSubscription, UpdateSubscriptionItems, UpdateSubscriptionProrationBehavior};
use uuid::Uuid;

use super::{billing::Billing, lease::Lease, mirrored::Mirrored, prices::PlanPrices, running::Running};
use crate::{
    error::Error,
    stripe::{Write, object::Subscription},
    tasks::repository::{self, TaskKind},
};

/// An upgrade, as a task stores it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Completion {
    /// In Stripe.
    pub customer: String,
    /// In Stripe.
    pub subscription: String,
    /// The price of the larger plan.
    pub price: String,
    /// Usage that is admitted from then on has the prices of the larger plan.
    pub at: i64,
    /// The slot of its meters.
    pub slot: i16,
    /// Its metered prices.
    pub metered: Vec<String>,
}

/// How far the upgrade is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    Complete,
    /// The customer has to confirm the payment.
    Waits,
    /// The larger plan has not begun, and does not begin any more.
    Undone,
}

impl Completion {
    pub(super) fn new(running: &Running, prices: &PlanPrices, at: i64, slot: i16) -> Self {
        Self {
            customer: running.customer.clone(),
            subscription: running.subscription.id.clone(),
            price: prices.plan.clone(),
            at,
            slot,
            metered: prices.metered.iter().map(|(_, price)| price.clone()).collect(),
        }
    }

    pub fn from_args(args: &serde_json::Value) -> Result<Self, serde_json::Error> {
        Self::deserialize(args)
    }

    /// Whether the larger plan has begun.
    pub(super) fn has_begun(&self, of: &Mirrored) -> bool {
        of.stripe_id == self.subscription && of.items.iter().any(|item| item.price_id == self.price)
    }

    /// Whether the larger plan has begun with all of its prices.
    pub(super) fn is_complete(&self, of: &Mirrored) -> bool {
        let has = |price: &String| of.items.iter().any(|item| item.price_id == *price);
        self.has_begun(of) && self.metered.iter().all(has)
    }

    /// Stores it before the first call.
    pub(super) async fn arm(&self, lease: &Lease) -> Result<(), Error> {
        let mut tx = lease.begin().await?;
        repository::arm(&mut *tx, lease.account(), TaskKind::CompleteUpgrade, &json!(self)).await?;
        Ok(tx.commit().await?)
    }

    /// Adds the metered prices that the subscription lacks, if the larger plan has begun. Decided from Stripe's state alone, so it
    /// may be repeated.
    pub async fn settle(&self, billing: &Billing) -> Result<Progress, Error> {
        let running = match Running::of_customer(billing, self.customer.clone()).await {
            Ok(running) => running,
            Err(Error::NotSubscribed) => return Ok(Progress::Undone),
            Err(failure) => return Err(failure),
        };
        let subscription = running.subscription;
        let has = |price: &String| subscription.items.data.iter().any(|item| item.price.id == *price);
        if subscription.id != self.subscription || !has(&self.price) {
            let waits = subscription.id == self.subscription && subscription.pending_update.is_some();
            return Ok(if waits { Progress::Waits } else { Progress::Undone });
        }
        let lacking: Vec<&String> = self.metered.iter().filter(|price| !has(price)).collect();
        if !lacking.is_empty() {
            add(billing, &subscription.id, lacking).await?;
        }
        Ok(Progress::Complete)
    }
}

/// Adds metered prices to a subscription. A new item bills the usage from now on.
pub(super) async fn add(
    billing: &Billing,
    subscription: &str,
    prices: impl IntoIterator<Item = &String>,
) -> Result<Subscription, Error> {
    let items = prices.into_iter().map(|price| {
        let mut item = UpdateSubscriptionItems::new();
        item.price = Some(price.clone());
        item
    });
    // Nothing is prorated: these items have no fixed price.
    let update = UpdateSubscription::new(subscription)
        .items(items.collect::<Vec<_>>())
        .proration_behavior(UpdateSubscriptionProrationBehavior::CreateProrations);
    // A new key each time: Stripe repeats a failed response to the same key for a day. After a lost response, Stripe already shows
    // the prices.
    let key = format!("bill-{subscription}-{}", Uuid::now_v7());
    Ok(billing.stripe()?.write(&update, Write::Keyed(&key)).await?)
}

/// The account's upgrade that is not complete, and its task.
pub(super) async fn open(db: impl PgExecutor<'_>, account: AccountId) -> Result<Option<(Uuid, Completion)>, Error> {
    let task = repository::open(db, account, TaskKind::CompleteUpgrade).await?;
    Ok(task.and_then(|task| Some((task.id, Completion::from_args(&task.args).ok()?))))
}
