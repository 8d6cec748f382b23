//! Which version of its plan a subscription has. The price of the plan itself tells it.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use schema::{Interval, PlanVersion};
use sqlx::{PgPool, Postgres, Transaction};
use uuid::Uuid;

use super::{fetched::Fetched, sold::Sold};
use crate::{
    accounts::versions::{self, Origin},
    error::Error,
};

/// Versions by the price of the plan itself.
#[derive(Clone, Debug, Default)]
pub struct Versions(HashMap<String, Arc<PlanVersion>>);

impl Versions {
    /// `None`: this service did not make the price. Then the account follows the catalogue.
    pub fn of_price(&self, price_id: &str) -> Option<Arc<PlanVersion>> {
        self.0.get(price_id).cloned()
    }
}

/// The versions of these subscriptions, and of what is planned for them. A price that is seen for the first time is stored with
/// its version. If no version has its terms, it was made before there were versions, and gets one of its own.
pub async fn of_fetched(db: &PgPool, fetched: &[Fetched]) -> Result<Versions, Error> {
    let all = Sold::all(fetched);
    let prices: BTreeSet<&str> = all.iter().map(|sold| sold.price_id.as_str()).collect();
    let prices: Vec<String> = prices.into_iter().map(str::to_owned).collect();
    let mut ids = of_prices(db, &prices).await?;
    for sold in &all {
        if ids.contains_key(&sold.price_id) {
            continue;
        }
        let mut tx = db.begin().await?;
        if let Some(id) = place(&mut tx, sold).await? {
            ids.insert(sold.price_id.clone(), id);
        }
        tx.commit().await?;
    }
    let read: Vec<Uuid> = ids.values().copied().collect();
    let read = versions::read(db, &read).await?;
    let of_price = ids
        .into_iter()
        .filter_map(|(price, id)| Some((price, Arc::clone(read.get(&id)?))));
    Ok(Versions(of_price.collect()))
}

async fn of_prices(db: &PgPool, prices: &[String]) -> Result<HashMap<String, Uuid>, Error> {
    let rows = sqlx::query!(
        "select price_id, version_id from plan_version_prices where usage_type is null and price_id = any($1)",
        prices
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(|row| (row.price_id, row.version_id)).collect())
}

/// The version of the plan among these prices.
pub async fn of_any(db: &PgPool, prices: &[String]) -> Result<Option<Uuid>, Error> {
    Ok(of_prices(db, prices).await?.into_values().next())
}

/// `None`: the plan is unknown here.
async fn place(tx: &mut Transaction<'_, Postgres>, sold: &Sold) -> Result<Option<Uuid>, Error> {
    let known = versions::of_plan(&mut **tx, &sold.plan).await?;
    let id = match (sold.find(&known), known.first()) {
        (Some(version), _) => version.id,
        (None, Some(oldest)) => {
            let terms = sold.terms(&oldest.terms);
            versions::ensure(tx, &sold.plan, &terms, Origin::Stripe).await?
        }
        (None, None) => return Ok(None),
    };
    for (price, usage_type) in sold.prices() {
        add_price(tx, id, price, usage_type, sold.interval).await?;
    }
    Ok(Some(id))
}

/// The price of the plan itself keeps the version with which it was stored first. `interval`: of the plan itself.
pub async fn add_price(
    tx: &mut Transaction<'_, Postgres>,
    version: Uuid,
    price: &str,
    usage_type: Option<&str>,
    interval: Interval,
) -> Result<(), Error> {
    let interval = usage_type.map_or(interval, |_| Interval::Month);
    sqlx::query!(
        "insert into plan_version_prices (price_id, version_id, usage_type, interval_months) values ($1, $2, $3, $4)
         on conflict do nothing",
        price,
        version,
        usage_type,
        interval.months()
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use schema::{Catalogue, PlanTerms};

    use super::*;

    /// A version of Pro with the terms of this catalogue.
    pub(in crate::subscriptions) fn pro(number: i32, catalogue: &str) -> PlanVersion {
        let catalogue = Catalogue::parse(catalogue).unwrap();
        PlanVersion {
            id: Uuid::from_u128(u128::try_from(number).unwrap()),
            plan: "pro".to_owned(),
            number,
            terms: PlanTerms::of(&catalogue, catalogue.plan("pro").unwrap()),
        }
    }
}
