//! Units that were granted are spent or held: granted − held = stored, of every pool.

use std::collections::HashMap;

use schema::{AccountId, LeaseId};

use super::{Crime, Verdict};
use crate::faults::evidence::Evidence;

pub fn check(evidence: &Evidence, verdict: &mut Verdict) {
    let mut spent: HashMap<(AccountId, &str, i64), i64> = HashMap::new();
    let mut by_lease: HashMap<LeaseId, i64> = HashMap::new();
    for row in evidence.rows.iter().filter(|row| row.lease != LeaseId::NIL) {
        let pool = (row.account, row.usage_type.as_str(), row.period_start);
        *spent.entry(pool).or_default() += row.units;
        *by_lease.entry(row.lease).or_default() += row.units;
    }
    let mut held: HashMap<(AccountId, &str, i64), i64> = HashMap::new();
    for lease in &evidence.held {
        let unspent = lease.units - by_lease.get(&lease.lease).copied().unwrap_or(0);
        if unspent < 0 {
            verdict.convict(Crime::PoolDrift, || {
                format!("{} units more were spent than {lease:?} has", -unspent)
            });
        }
        let pool = (lease.account, lease.usage_type.as_str(), lease.period_start);
        *held.entry(pool).or_default() += unspent;
    }
    for pool in &evidence.pools {
        let key = (pool.account, pool.usage_type.as_str(), pool.period_start);
        let spent = spent.remove(&key).unwrap_or(0);
        let held = held.remove(&key).unwrap_or(0);
        if pool.granted - held != spent {
            verdict.convict(Crime::PoolDrift, || {
                format!("{pool:?}: {held} are held, {spent} are stored")
            });
        }
    }
    for (pool, units) in spent {
        verdict.convict(Crime::PoolDrift, || {
            format!("{units} units of {pool:?} are stored, and there is no such pool")
        });
    }
}
