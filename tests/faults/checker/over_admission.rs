//! No request is admitted past the limit in force, on any gateway.
//!
//! A request is admitted between its invocation and its completion. Every request that was accepted and answered before this
//! invocation was admitted earlier. So the units of those requests plus the units of this one must fit the highest limit that
//! was in force on any gateway in that time. For requests with an unknown outcome only the total is known: all requests
//! together must fit the highest limit.

use std::collections::HashMap;

use schema::AccountId;

use super::{Violation, Violations};
use crate::faults::{
    evidence::{Evidence, Row},
    history::{Attempt, RequestId},
};

struct Admitted<'a> {
    attempt: &'a Attempt,
    units: i64,
}

pub(super) fn check(evidence: &Evidence, violations: &mut Violations) {
    let attempts: HashMap<RequestId, &Attempt> = evidence
        .history
        .iter()
        .map(|attempt| (attempt.request, attempt))
        .collect();
    let mut pools: HashMap<(AccountId, &str, i64), Vec<Admitted>> = HashMap::new();
    for (row, attempt) in admitted(&evidence.rows, &attempts) {
        let pool = (row.account, row.usage_type.as_str(), row.period_start);
        pools.entry(pool).or_default().push(Admitted {
            attempt,
            units: row.units,
        });
    }
    let mut heard = HashMap::new();
    for (pool, mut admitted) in pools {
        admitted.sort_by_key(|one| one.attempt.completed_ms);
        let certain: Vec<(i64, i64)> = admitted
            .iter()
            .filter(|one| one.attempt.is_accepted())
            .scan(0, |sum, one| {
                *sum += one.units;
                Some((one.attempt.completed_ms, *sum))
            })
            .collect();
        let total: i64 = admitted.iter().map(|one| one.units).sum();
        for Admitted { attempt, units } in &admitted {
            let of = (attempt.account, attempt.usage_type);
            let until = if attempt.is_accepted() {
                attempt.completed_ms
            } else {
                i64::MAX
            };
            let heard_by = |completed: i64| {
                let by = || evidence.timeline.heard_by(attempt.gateway, completed);
                *heard.entry((attempt.gateway, completed)).or_insert_with(by)
            };
            // A usage type without a limit (overage) has no entry here.
            let Some(limit) = evidence.limits.highest(of, attempt.invoked_ms, until, heard_by) else {
                continue;
            };
            let before = certain.partition_point(|(completed_ms, _)| *completed_ms < attempt.invoked_ms);
            let before = before.checked_sub(1).map_or(0, |last| certain[last].1);
            if before + units > limit {
                violations.record(Violation::OverAdmitted, || {
                    format!("{before} units of {pool:?} were admitted before {attempt:?}, but the limit was {limit}")
                });
            }
        }
        if let Some(Admitted { attempt, .. }) = admitted.first() {
            let of = (attempt.account, attempt.usage_type);
            let ever = evidence.limits.highest(of, i64::MIN, i64::MAX, |_| i64::MAX);
            if let Some(ever) = ever.filter(|ever| total > *ever) {
                violations.record(Violation::OverAdmitted, || {
                    format!("{total} units of {pool:?} in total, but the limit was never above {ever}")
                });
            }
        }
    }
}

/// Rows that spent units, each with its attempt. A row that is stored twice was admitted once.
fn admitted<'a>(
    rows: &'a [Row],
    attempts: &HashMap<RequestId, &'a Attempt>,
) -> impl Iterator<Item = (&'a Row, &'a Attempt)> {
    let mut seen = std::collections::HashSet::new();
    rows.iter().filter_map(move |row| {
        let attempt = *attempts.get(&row.request?)?;
        (row.units > 0 && seen.insert(row.event)).then_some((row, attempt))
    })
}
