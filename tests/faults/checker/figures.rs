//! The statistics of a run.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::faults::history::{Attempt, AttemptOutcome, Doubt};

#[derive(Clone, Debug, Default, Serialize)]
pub struct Figures {
    /// Attempts. Each event of a batch counts as one.
    pub requests: u64,
    pub accepted: u64,
    /// Admitted, but failed upstream.
    pub failed_upstream: u64,
    /// By status and `error` code.
    pub refused: BTreeMap<String, u64>,
    pub unknown: BTreeMap<Doubt, u64>,
    pub not_sent: u64,
    /// `429` although unspent units covered the cost, and nothing was in trouble during the preceding settling time.
    pub falsely_refused: u64,
    /// The same while some part was in trouble, or shortly after. Units may legitimately have been unavailable.
    pub refused_while_troubled: u64,
    /// The longest time, in milliseconds, after the answer to its revocation at which a key was still accepted. 0: never
    /// accepted.
    pub longest_after_revocation_ms: i64,
    /// Accounts with usage in more than one period.
    pub rolled_over: usize,
    /// The longest time, in milliseconds, that each gateway gave no answer other than "not now".
    pub unavailable_ms: BTreeMap<usize, i64>,
    /// The same for all gateways together, and when that time began.
    pub all_unavailable_ms: i64,
    pub all_unavailable_from_ms: i64,
}

impl Figures {
    pub fn of(history: &[Attempt]) -> Self {
        let mut figures = Self::default();
        for attempt in history {
            figures.requests += 1;
            match &attempt.outcome {
                AttemptOutcome::Accepted { .. } => figures.accepted += 1,
                AttemptOutcome::Failed { .. } => figures.failed_upstream += 1,
                AttemptOutcome::Refused { status, error } => {
                    *figures.refused.entry(format!("{status} {error}")).or_default() += 1;
                }
                AttemptOutcome::Unknown(doubt) => *figures.unknown.entry(*doubt).or_default() += 1,
                AttemptOutcome::NotSent => figures.not_sent += 1,
            }
        }
        let gateways: BTreeSet<usize> = history.iter().map(|attempt| attempt.gateway).collect();
        for gateway in gateways {
            let of_gateway = history.iter().filter(|attempt| attempt.gateway == gateway);
            figures.unavailable_ms.insert(gateway, longest_gap(of_gateway).0);
        }
        (figures.all_unavailable_ms, figures.all_unavailable_from_ms) = longest_gap(history.iter());
        figures
    }
}

/// The longest time between two answers, from the first attempt to the last, and when it began.
fn longest_gap<'a>(attempts: impl Iterator<Item = &'a Attempt> + Clone) -> (i64, i64) {
    let mut moments: Vec<i64> = attempts
        .clone()
        .filter(|attempt| is_an_answer(&attempt.outcome))
        .map(|attempt| attempt.completed_ms)
        .collect();
    moments.extend(attempts.clone().map(|attempt| attempt.invoked_ms).min());
    moments.extend(attempts.map(|attempt| attempt.completed_ms).max());
    moments.sort_unstable();
    moments
        .windows(2)
        .map(|pair| (pair[1] - pair[0], pair[0]))
        .max()
        .unwrap_or_default()
}

fn is_an_answer(outcome: &AttemptOutcome) -> bool {
    match outcome {
        AttemptOutcome::Accepted { .. } | AttemptOutcome::Failed { .. } => true,
        AttemptOutcome::Refused { status, .. } => *status != 503,
        AttemptOutcome::Unknown(_) | AttemptOutcome::NotSent => false,
    }
}
