//! The pools under spend caps that a transaction grants from. A cap is locked before its pools are read, so their cost can only
//! fall until the transaction ends.

use std::collections::BTreeMap;

use protocol::spend::{self, Line};
use quota_store::{
    caps::{self, BilledPool},
    pools::PoolKey,
};
use schema::AccountId;
use sqlx::PgConnection;

use super::Job;
use crate::quota::view::Spent;

#[derive(Default)]
pub(super) struct Capped {
    /// In cents.
    caps: BTreeMap<AccountId, i64>,
    pools: Vec<BilledPool>,
}

impl Capped {
    /// Locks the caps of the jobs that request billed units. Usually there are none.
    pub(super) async fn lock(connection: &mut PgConnection, jobs: &[Job]) -> sqlx::Result<Self> {
        let mut accounts: Vec<AccountId> = keys(jobs).into_iter().map(|key| key.account).collect();
        accounts.sort_unstable();
        accounts.dedup();
        let caps = match accounts.is_empty() {
            true => BTreeMap::new(),
            false => caps::lock(connection, &accounts).await?,
        };
        Ok(Self {
            caps,
            pools: Vec::new(),
        })
    }

    /// Reads all pools that share the locked caps.
    pub(super) async fn read(&mut self, connection: &mut PgConnection, jobs: &[Job]) -> sqlx::Result<()> {
        if !self.caps.is_empty() {
            self.pools = caps::beside(connection, &keys(jobs)).await?;
        }
        Ok(())
    }

    /// Up to how many units the pool may be granted. `None`: the account has no cap any more, or there is no such pool.
    pub(super) fn limit(&self, key: &PoolKey) -> Option<i64> {
        let (pool, lines, number) = self.lines(key)?;
        let affordable = spend::affordable(&lines, number, *self.caps.get(&key.account)?);
        Some(pool.granted.saturating_add(affordable))
    }

    /// These units are granted from the pool.
    pub(super) fn grant(&mut self, key: &PoolKey, units: i64) {
        if let Some(pool) = self.pools.iter_mut().find(|pool| pool.key == *key) {
            pool.granted = pool.granted.saturating_add(units);
            pool.line.units = pool.line.units.saturating_add(units);
        }
    }

    /// What the pools under the same cap cost. `None`: the pool is under no cap.
    pub(super) fn spent(&self, key: &PoolKey) -> Option<Spent> {
        let (_, lines, _) = self.lines(key)?;
        Some(Spent {
            cap_cents: *self.caps.get(&key.account)?,
            used_cents: spend::cents(&lines),
        })
    }

    /// All pools under the same cap, this one included.
    pub(super) fn beside(&self, key: &PoolKey) -> Vec<PoolKey> {
        let of = self.pools.iter().find(|pool| pool.key == *key);
        let beside = of.map(|of| self.pools.iter().filter(|pool| is_beside(of, pool)));
        beside.into_iter().flatten().map(|pool| pool.key.clone()).collect()
    }

    fn lines(&self, key: &PoolKey) -> Option<(&BilledPool, Vec<Line>, usize)> {
        let of = self.pools.iter().find(|pool| pool.key == *key)?;
        let beside: Vec<_> = self.pools.iter().filter(|pool| is_beside(of, pool)).collect();
        let number = beside.iter().position(|pool| pool.key == *key)?;
        Some((of, beside.iter().map(|pool| pool.line).collect(), number))
    }
}

fn is_beside(one: &BilledPool, other: &BilledPool) -> bool {
    (one.key.account, one.period_start) == (other.key.account, other.period_start)
}

/// The billed pools that units are requested from.
fn keys(jobs: &[Job]) -> Vec<PoolKey> {
    let billed = jobs.iter().filter(|job| job.pool_type.is_billed());
    billed
        .filter_map(|job| Some(job.pool_key(job.want()?.period.start)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(usage_type: &str, segment: i64, period_start: i64, units: i64) -> BilledPool {
        BilledPool {
            key: PoolKey {
                account: AccountId::NIL,
                usage_type: usage_type.to_owned(),
                period_start: segment,
            },
            period_start,
            // One unit without a lease.
            granted: units - 1,
            line: Line {
                units,
                included: 0,
                unit_price_micros: 10_000,
            },
        }
    }

    #[test]
    fn the_pools_of_a_period_share_the_cap_and_those_of_others_do_not() {
        let (calls, exports, before) = (pool("a", 0, 0, 30), pool("b", 5, 0, 20), pool("a", -9, -9, 1_000));
        let mut capped = Capped {
            caps: BTreeMap::from([(AccountId::NIL, 100)]),
            pools: vec![calls.clone(), exports.clone(), before.clone()],
        };
        let used = |capped: &Capped| capped.spent(&calls.key).unwrap().used_cents;
        assert_eq!((capped.limit(&calls.key), used(&capped)), (Some(29 + 50), 50));
        assert_eq!(capped.beside(&calls.key), [calls.key.clone(), exports.key.clone()]);
        assert_eq!(capped.beside(&before.key), std::slice::from_ref(&before.key));
        // A grant from one leaves less for the other in the same transaction.
        capped.grant(&exports.key, 45);
        assert_eq!((capped.limit(&calls.key), used(&capped)), (Some(29 + 5), 95));
        capped.caps.clear();
        assert_eq!((capped.limit(&calls.key), capped.spent(&calls.key)), (None, None));
    }
}
