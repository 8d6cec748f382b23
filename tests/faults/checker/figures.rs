//! What happened, in numbers.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::faults::history::{Attempt, Doubt, Outcome};

#[derive(Clone, Debug, Default, Serialize)]
pub struct Figures {
    /// Attempts; each event of a batch is one.
    pub requests: u64,
    pub accepted: u64,
    /// Admitted, then failed upstream.
    pub failed_upstream: u64,
    /// By status and `error`.
    pub refused: BTreeMap<String, u64>,
    pub unknown: BTreeMap<Doubt, u64>,
    pub not_sent: u64,
    /// `429` while unspent units covered the cost, with no part in trouble for as long as settling takes.
    pub falsely_refused: u64,
    /// The same while some part was in trouble, or had just been: units may rightly have been out of reach.
    pub refused_while_troubled: u64,
    /// How long after its revocation was answered a key was accepted at the latest, in milliseconds; 0: it never was.
    pub longest_after_revocation_ms: i64,
    /// Accounts with usage in more than one period.
    pub rolled_over: usize,
    /// The longest time without an answer that says more than "not now", by gateway, in milliseconds.
    pub unavailable_ms: BTreeMap<usize, i64>,
    /// The same of all gateways together, and when it began.
    pub all_unavailable_ms: i64,
    pub all_unavailable_from_ms: i64,
}

impl Figures {
    pub fn of(history: &[Attempt]) -> Self {
        let mut figures = Self::default();
        for attempt in history {
            figures.requests += 1;
            match &attempt.outcome {
                Outcome::Accepted { .. } => figures.accepted += 1,
                Outcome::Failed { .. } => figures.failed_upstream += 1,
                Outcome::Refused { status, error } => {
                    *figures.refused.entry(format!("{status} {error}")).or_default() += 1;
                }
                Outcome::Unknown(doubt) => *figures.unknown.entry(*doubt).or_default() += 1,
                Outcome::NotSent => figures.not_sent += 1,
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

fn is_an_answer(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Accepted { .. } | Outcome::Failed { .. } => true,
        Outcome::Refused { status, .. } => *status != 503,
        Outcome::Unknown(_) | Outcome::NotSent => false,
    }
}
