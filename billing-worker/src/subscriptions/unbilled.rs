//! Usage types that an account's version of a plan bills and its subscription does not: somebody removed the price in Stripe, or the
//! catalogue began to bill them when there were no versions. Their usage is reported to Stripe, but is on no invoice until the
//! subscription has a price for it.

use schema::{AccountId, Catalogue};
use serde::Serialize;
use sqlx::PgPool;
use tracing::info;
use uuid::Uuid;

use super::{completion, lease::Lease, periods, prices, refresh, running::Running, slot_prices};
use crate::{error::Error, subscriptions::billing::Billing};

/// A subscription without a price for these usage types.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unbilled {
    pub account_id: AccountId,
    pub stripe_subscription_id: String,
    pub plan: String,
    pub usage_types: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mended {
    Added,
    /// It already has them.
    Complete,
    /// Another plan is scheduled: Stripe's schedule decides which prices it has.
    Scheduled,
}

/// By account id, at most `max` of them if it is given.
pub async fn list(db: &PgPool, catalogue: &Catalogue, max: Option<i64>) -> Result<Vec<Unbilled>, Error> {
    let billed = catalogue.plans().iter().flat_map(|plan| {
        let usage_types = catalogue.billed(plan);
        usage_types.map(|usage_type| (plan.id.clone(), usage_type.name().to_owned()))
    });
    let (plans, usage_types): (Vec<_>, Vec<_>) = billed.unzip();
    let unbilled = sqlx::query_as!(
        Unbilled,
        r#"select s.account_id as "account_id: Uuid", s.stripe_subscription_id as "stripe_subscription_id!",
                  s.plan_id as plan, array_agg(billed.usage_type order by billed.usage_type) as "usage_types!"
           from subscriptions s cross join lateral (
               select l.usage_type from plan_version_limits l where l.version_id = s.version_id and l.mode <> 'limited'
               union all select c.usage_type from unnest($1::text[], $2::text[]) as c (plan_id, usage_type)
                   where s.version_id is null and c.plan_id = s.plan_id
           ) as billed
           where s.is_current and s.stripe_subscription_id is not null and s.interval_months = 1 and not exists
               (select from subscription_items i where i.subscription_id = s.id and i.usage_type = billed.usage_type)
           group by s.id order by s.account_id limit $3"#,
        &plans,
        &usage_types,
        max
    )
    .fetch_all(db)
    .await?;
    Ok(unbilled)
}

/// Adds to an account's subscription the prices that it lacks.
pub async fn mend(billing: &Billing, account: AccountId) -> Result<Mended, Error> {
    let billing = &billing.of(account);
    let lease = billing.lease(account).await?;
    let mended = mend_leased(billing, &lease).await;
    lease.release().await;
    mended
}

async fn mend_leased(billing: &Billing, lease: &Lease) -> Result<Mended, Error> {
    let account = lease.account();
    let running = Running::find(&billing.admin.db, billing, account).await?;
    if running.schedule.is_some() {
        return Ok(Mended::Scheduled);
    }
    let prices = prices::of_running(billing, account, &running).await?;
    let known = periods::known(&billing.admin.db, account, &running.subscription.id).await?;
    let slot = known.last().map_or(0, |last| last.slot);
    let prices = slot_prices::in_slot(billing, &prices, slot).await?;
    let has = |usage_type: &str| {
        let mut items = running.metered();
        items.any(|item| item.price.usage_type() == Some(usage_type) && item.price.meter_slot() == slot)
    };
    let lacking = prices.metered.iter().filter(|(usage_type, _)| !has(usage_type));
    let added: Vec<String> = lacking.map(|(_, price)| price.clone()).collect();
    if !added.is_empty() {
        let mended = completion::add(billing, &running.subscription.id, &added).await?;
        let has = |price: &String| mended.items.data.iter().any(|item| item.price.id == *price);
        if let Some(missing) = added.iter().find(|price| !has(price)) {
            let id = &mended.id;
            return Err(Error::Conflict(format!(
                "Stripe accepted the price {missing} for {id} but does not show it: look at the subscription in Stripe"
            )));
        }
        info!(account.id = %account, stripe_subscription.id = running.subscription.id, prices = ?added, "added missing prices to a subscription");
    }
    refresh::store(billing, lease, &running.customer).await?;
    Ok(match added.is_empty() {
        true => Mended::Complete,
        false => Mended::Added,
    })
}
