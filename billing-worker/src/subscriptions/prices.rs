//! The prices of a plan in Stripe.

use std::collections::HashMap;

use schema::{AccountId, Catalogue, Interval, Plan, PlanTerms};
use sqlx::PgExecutor;

use super::{current, running::Running, used_prices};
use crate::{
    error::Error,
    stripe::catalogue::{self, WantedPrice},
    subscriptions::billing::Billing,
};

/// The prices of a subscription to a plan. One that is paid per year has no metered prices: its units are charged.
#[derive(Clone, Debug)]
pub struct PlanPrices {
    /// The price of the plan itself.
    pub plan: String,
    /// Usage type and price of all usage that it bills by the unit.
    pub metered: Vec<(String, String)>,
}

/// A plan that customers can subscribe to.
pub fn for_sale<'a>(billing: &'a Billing, plan: &str) -> Result<&'a Plan, Error> {
    let plan = billing.admin.plan(plan)?;
    if plan.id == Catalogue::FREE {
        return Err(Error::NotForSale {
            plan: plan.id.clone(),
            instead: "every account without a subscription has it; POST /billing/cancel returns to it",
        });
    }
    if !plan.listed {
        return Err(Error::NotForSale {
            plan: plan.id.clone(),
            instead: "only the operator gives it: ask them",
        });
    }
    Ok(plan)
}

/// Fails if the plan is not sold for this interval.
pub fn refuse_other(billing: &Billing, plan: &Plan, interval: Interval) -> Result<(), Error> {
    let terms = PlanTerms::of(&billing.admin.catalogue, plan);
    let offered: Vec<Interval> = terms.intervals().collect();
    match offered.contains(&interval) {
        true => Ok(()),
        false => Err(Error::IntervalNotOffered {
            plan: plan.id.clone(),
            interval,
            offered: offered.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        }),
    }
}

/// The prices of the plan's version in this catalogue. Stripe has them under its lookup keys, unless `stripe sync` has made those of
/// another catalogue since: then they are as stored. Fails with the lookup keys that Stripe lacks.
pub async fn of_plan(billing: &Billing, plan: &Plan, interval: Interval) -> Result<PlanPrices, Error> {
    let (db, catalogue) = (&billing.admin.db, &billing.admin.catalogue);
    refuse_other(billing, plan, interval)?;
    let mut wanted: Vec<WantedPrice> = catalogue::of_plan(catalogue, plan);
    wanted.retain(|wanted| wanted.interval() == interval);
    let keys: Vec<String> = wanted.iter().map(|wanted| wanted.lookup_key.clone()).collect();
    let (known, found) = (
        used_prices::versions(db).await?,
        catalogue::prices(billing.stripe()?, &keys).await?,
    );
    let mut prices: HashMap<Option<&str>, String> = HashMap::new();
    let mut missing = Vec::new();
    for wanted in &wanted {
        match found.get(&wanted.lookup_key).filter(|price| wanted.is(price, &known)) {
            Some(price) => drop(prices.insert(wanted.usage_type(), price.id.clone())),
            None => missing.push(wanted.lookup_key.as_str()),
        }
    }
    if missing.is_empty() {
        let own = prices.remove(&None).unwrap_or_default();
        let billed = catalogue.billed(plan).map(|usage_type| usage_type.name());
        return Ok(PlanPrices {
            plan: own,
            metered: billed
                .filter_map(|usage_type| Some((usage_type.to_owned(), prices.remove(&Some(usage_type))?)))
                .collect(),
        });
    }
    let stored = of_version(db, &plan.id, &PlanTerms::of(catalogue, plan), interval).await?;
    stored.ok_or_else(|| Error::PricesMissing {
        lookup_keys: missing.join(", "),
    })
}

/// The prices of the version that the account has.
pub async fn of_running(billing: &Billing, account: AccountId, running: &Running) -> Result<PlanPrices, Error> {
    let plan = billing.admin.plan(running.plan().unwrap_or_default())?;
    let interval = running.interval().unwrap_or_default();
    let current = current::subscriptions(&billing.admin.db, &[account]).await?;
    let version = current.get(&account).and_then(|current| current.version.as_ref());
    match version {
        Some(version) if version.terms != PlanTerms::of(&billing.admin.catalogue, plan) => {
            let stored = of_version(&billing.admin.db, &plan.id, &version.terms, interval).await?;
            stored.ok_or_else(|| Error::Conflict(format!("the prices of {} in Stripe are not known", version.name())))
        }
        _ => of_plan(billing, plan, interval).await,
    }
}

/// The prices of the plan's version with these terms, as they were stored. `None`: not all of them are known.
pub async fn of_version(
    db: impl PgExecutor<'_>,
    plan: &str,
    terms: &PlanTerms,
    interval: Interval,
) -> Result<Option<PlanPrices>, Error> {
    let rows = sqlx::query!(
        "select p.price_id, p.usage_type from plan_version_prices p join plan_versions v on v.id = p.version_id
         where v.plan_id = $1 and v.terms_hash = $2 and (p.usage_type is not null or p.interval_months = $3)
         order by p.created_at, p.price_id",
        plan,
        &terms.hash()[..],
        interval.months()
    )
    .fetch_all(db)
    .await?;
    // The newest of each.
    let mut prices: HashMap<Option<String>, String> =
        rows.into_iter().map(|row| (row.usage_type, row.price_id)).collect();
    let billed = terms.billed().filter(|_| interval == Interval::Month);
    let metered = billed.map(|usage_type| {
        let price = prices.remove(&Some(usage_type.to_owned()))?;
        Some((usage_type.to_owned(), price))
    });
    let metered: Option<Vec<_>> = metered.collect();
    Ok(prices
        .remove(&None)
        .zip(metered)
        .map(|(plan, metered)| PlanPrices { plan, metered }))
}

impl PlanPrices {
    /// The plan's own first.
    pub fn ids(&self) -> Vec<String> {
        let metered = self.metered.iter().map(|(_, price)| price);
        std::iter::once(&self.plan).chain(metered).cloned().collect()
    }
}
