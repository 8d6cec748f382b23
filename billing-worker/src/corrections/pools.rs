//! Returns units to the pools that they came from, inside the transaction that records it.

use std::collections::BTreeMap;

use sqlx::{Postgres, Transaction};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::error::Error;

/// A pool: account, usage type, start of the period. All code locks several pools in this order.
pub type PoolKey = (Uuid, String, OffsetDateTime);

/// Gives back units, and returns how many of each went back, in their order. A pool is never granted less than nothing, and
/// what came out of none (`None`, or a pool that is not there) goes back to none.
pub async fn give_back(
    tx: &mut Transaction<'_, Postgres>,
    units: &[(Option<PoolKey>, i64)],
) -> Result<Vec<i64>, Error> {
    let mut granted: BTreeMap<PoolKey, i64> = units.iter().filter_map(|(key, _)| Some((key.clone()?, 0))).collect();
    lock(tx, &mut granted).await?;
    let before = granted.clone();
    let take = |(key, units): &(Option<PoolKey>, i64)| {
        let of_pool = key.as_ref().and_then(|key| granted.get_mut(key));
        of_pool.map_or(0, |granted| {
            let units = (*granted).min(*units).max(0);
            *granted -= units;
            units
        })
    };
    let returned = units.iter().map(take).collect();
    granted.retain(|key, granted| before.get(key) != Some(granted));
    sqlx::query!(
        "update quota_pool p set granted_units = n.granted_units
         from unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::bigint[])
              as n (account_id, usage_type, period_start, granted_units)
         where (p.account_id, p.usage_type, p.period_start) = (n.account_id, n.usage_type, n.period_start)",
        &granted.keys().map(|key| key.0).collect::<Vec<_>>(),
        &granted.keys().map(|key| key.1.clone()).collect::<Vec<_>>(),
        &granted.keys().map(|key| key.2).collect::<Vec<_>>(),
        &granted.values().copied().collect::<Vec<_>>()
    )
    .execute(&mut **tx)
    .await?;
    Ok(returned)
}

/// Locks the pools in key order and reads the granted units of each; 0 if a pool does not exist.
async fn lock(tx: &mut Transaction<'_, Postgres>, pools: &mut BTreeMap<PoolKey, i64>) -> Result<(), Error> {
    let rows = sqlx::query!(
        "select p.account_id, p.usage_type, p.period_start, p.granted_units from quota_pool p
         join unnest($1::uuid[], $2::text[], $3::timestamptz[]) as n (account_id, usage_type, period_start)
              using (account_id, usage_type, period_start)
         order by p.account_id, p.usage_type, p.period_start for update of p",
        &pools.keys().map(|key| key.0).collect::<Vec<_>>(),
        &pools.keys().map(|key| key.1.clone()).collect::<Vec<_>>(),
        &pools.keys().map(|key| key.2).collect::<Vec<_>>()
    )
    .fetch_all(&mut **tx)
    .await?;
    for row in rows {
        pools.insert((row.account_id, row.usage_type, row.period_start), row.granted_units);
    }
    Ok(())
}
