//! False refusals: a `429` although unspent units covered the cost. The count is a lower bound: all units that may have been
//! spent or reserved count as spent, and the lowest limit that may have been in force counts as the limit.

use std::collections::HashMap;

use super::Figures;
use crate::faults::{
    evidence::Evidence,
    history::{Attempt, AttemptOutcome, RequestId},
};

/// Running totals of the units that attempts of one account and usage type spent, or may have reserved for a while.
#[derive(Default)]
struct Claims {
    begun: Vec<(i64, i64)>,
    ended: Vec<(i64, i64)>,
}

pub(super) fn count(evidence: &Evidence, figures: &mut Figures) {
    let stored: HashMap<RequestId, i64> = evidence
        .rows
        .iter()
        .filter_map(|row| Some((row.request?, row.units)))
        .collect();
    let mut claims: HashMap<(usize, usize), Claims> = HashMap::new();
    let steady = |attempt: &&Attempt| evidence.steady.contains(&attempt.account);
    for attempt in evidence.history.iter().filter(steady) {
        let claims = claims.entry((attempt.account, attempt.usage_type)).or_default();
        claims.begun.push((attempt.invoked_ms, attempt.cost));
        if stored.get(&attempt.request).is_none_or(|units| *units == 0) {
            // The attempt may have held its units until it was answered, or longer if it had no answer.
            let ended_ms = match attempt.outcome {
                AttemptOutcome::Unknown(_) => attempt.completed_ms.saturating_add(evidence.settled_ms),
                _ => attempt.completed_ms,
            };
            claims.ended.push((ended_ms, attempt.cost));
        }
    }
    for claims in claims.values_mut() {
        add_up(&mut claims.begun);
        add_up(&mut claims.ended);
    }
    for attempt in evidence.history.iter().filter(steady).filter(is_refused_by_limit) {
        let of = (attempt.account, attempt.usage_type);
        let (from_ms, to_ms) = (attempt.invoked_ms, attempt.completed_ms);
        let (Some(claims), Some(limit)) = (claims.get(&of), evidence.limits.lowest(of, from_ms, to_ms)) else {
            continue;
        };
        // The total includes the cost of the refused attempt itself.
        let claimed = before(&claims.begun, to_ms.saturating_add(1)) - before(&claims.ended, from_ms);
        if claimed > limit {
            continue;
        }
        match evidence
            .timeline
            .is_troubled(from_ms.saturating_sub(evidence.settled_ms), to_ms)
        {
            true => figures.refused_while_troubled += 1,
            false => figures.falsely_refused += 1,
        }
    }
}

fn add_up(moments: &mut [(i64, i64)]) {
    moments.sort_unstable();
    let mut sum = 0;
    for (_, units) in moments {
        sum += *units;
        *units = sum;
    }
}

/// The total of all moments before `at_ms`.
fn before(totals: &[(i64, i64)], at_ms: i64) -> i64 {
    let n = totals.partition_point(|(moment, _)| *moment < at_ms);
    n.checked_sub(1).map_or(0, |last| totals[last].1)
}

fn is_refused_by_limit(attempt: &&Attempt) -> bool {
    matches!(&attempt.outcome, AttemptOutcome::Refused { status: 429, error } if error == "rate_limit_exceeded")
}
