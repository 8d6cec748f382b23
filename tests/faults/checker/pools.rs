//! Granted units are spent or held. For every pool: granted − held = stored. For every lease that has ended: the units that
//! were not returned were spent, by a stored event or by a duplicate of one.

use std::collections::HashMap;

use schema::{AccountId, LeaseId};

use super::{Violation, Violations};
use crate::faults::evidence::Evidence;

type PoolKey<'a> = (AccountId, &'a str, i64);

pub(super) fn check(evidence: &Evidence, violations: &mut Violations) {
    let mut stored: HashMap<PoolKey, i64> = HashMap::new();
    let mut by_lease: HashMap<LeaseId, i64> = HashMap::new();
    for row in evidence.rows.iter().filter(|row| row.lease != LeaseId::NIL) {
        *stored
            .entry((row.account, row.usage_type.as_str(), row.period_start))
            .or_default() += row.units;
        *by_lease.entry(row.lease).or_default() += row.units;
    }
    for (lease, units) in evidence.stream.dropped.values() {
        *by_lease.entry(*lease).or_default() += units;
    }
    let held = leases(evidence, &by_lease, violations);
    for pool in &evidence.pools {
        let key = (pool.account, pool.usage_type.as_str(), pool.period_start);
        let (stored, held) = (stored.remove(&key).unwrap_or(0), held.get(&key).copied().unwrap_or(0));
        if pool.granted - held != stored {
            violations.record(Violation::PoolDrift, || {
                format!("{pool:?}: {held} are held, {stored} are stored")
            });
        }
    }
    for (pool, units) in stored {
        violations.record(Violation::PoolDrift, || {
            format!("{units} units of {pool:?} are stored, but there is no such pool")
        });
    }
}

/// Returns the units that live leases hold of each pool.
fn leases<'a>(
    evidence: &'a Evidence,
    spent: &HashMap<LeaseId, i64>,
    violations: &mut Violations,
) -> HashMap<PoolKey<'a>, i64> {
    let mut held: HashMap<PoolKey, i64> = HashMap::new();
    for lease in &evidence.leases {
        let unspent = lease.units - spent.get(&lease.id).copied().unwrap_or(0);
        if unspent < 0 || (unspent > 0 && !lease.is_live) {
            violations.record(Violation::PoolDrift, || {
                format!("{unspent} units of {lease:?} are neither spent nor given back")
            });
        }
        let pool = (lease.account, lease.usage_type.as_str(), lease.period_start);
        if lease.is_live {
            *held.entry(pool).or_default() += unspent;
        }
    }
    held
}
