//! A revoked key admits no request that is sent after the time that [`crate::faults::timeline`] allows for a gateway to learn
//! of it.

use std::collections::HashMap;

use super::{Figures, Violation, Violations};
use crate::faults::evidence::Evidence;

pub(super) fn check(evidence: &Evidence, violations: &mut Violations, figures: &mut Figures) {
    let mut by_key: HashMap<usize, i64> = HashMap::new();
    for revocation in &evidence.revocations {
        let first = by_key.entry(revocation.key).or_insert(revocation.completed_ms);
        *first = (*first).min(revocation.completed_ms);
    }
    let mut heard = HashMap::new();
    for attempt in evidence.history.iter().filter(|attempt| attempt.is_accepted()) {
        let Some(completed_ms) = by_key.get(&attempt.key).copied() else {
            continue;
        };
        let after_ms = attempt.invoked_ms - completed_ms;
        figures.longest_after_revocation_ms = figures.longest_after_revocation_ms.max(after_ms);
        let by = *heard
            .entry((attempt.gateway, completed_ms))
            .or_insert_with(|| evidence.timeline.heard_by(attempt.gateway, completed_ms));
        if attempt.invoked_ms > by {
            violations.record(Violation::Late, || {
                format!("{after_ms} ms after the key was revoked: {attempt:?}")
            });
        }
    }
}
