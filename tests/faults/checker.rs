//! Compares the responses that clients got with the data in the stores. Pure: it gets all evidence and reports contradictions.
//!
//! It convicts only when it is certain: if a fault allows several outcomes, it accepts each of them.

mod events;
mod figures;
mod over_admission;
mod pools;
mod positions;
mod refusals;
mod revocations;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::evidence::Evidence;

pub use figures::Figures;

/// A violation of a guarantee.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Crime {
    /// Accepted, but not stored.
    Lost,
    /// Stored more than once.
    Doubled,
    /// Stored, but nobody sent it.
    Invented,
    /// Stored, although the client was told that it was not counted.
    Refused,
    /// Stored with the wrong units, account, key or usage type.
    Different,
    /// Admitted past the limit in force.
    OverAdmitted,
    /// Accepted with a revoked key.
    Late,
    /// Granted units that are neither spent nor held, or spent units that were not granted.
    PoolDrift,
    /// A stream position that is neither a row nor dropped, a row without a position, or a shard that is not stored to its end.
    Position,
    /// The units reported to Stripe differ from the counted units.
    StripeDrift,
    /// The system did not settle after all faults were removed and the load had stopped.
    Restless,
}

/// All violations: the count of each kind, and descriptions of the first few.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Verdict {
    pub counts: BTreeMap<Crime, u64>,
    pub examples: Vec<String>,
}

/// Examples kept for each kind.
const EXAMPLES_MAX: u64 = 5;

/// Runs all checks.
pub fn check(evidence: &Evidence) -> (Verdict, Figures) {
    let (mut verdict, mut figures) = (Verdict::default(), Figures::of(&evidence.history));
    figures.rolled_over = rolled_over(evidence);
    events::check(evidence, &mut verdict);
    over_admission::check(evidence, &mut verdict);
    revocations::check(evidence, &mut verdict, &mut figures);
    pools::check(evidence, &mut verdict);
    positions::check(evidence, &mut verdict);
    for told in evidence.told.iter().filter(|told| told.stripe != told.counted) {
        verdict.convict(Crime::StripeDrift, || {
            format!("{}: Stripe has {}, ClickHouse {}", told.line, told.stripe, told.counted)
        });
    }
    refusals::count(evidence, &mut figures);
    (verdict, figures)
}

fn rolled_over(evidence: &Evidence) -> usize {
    let mut periods: BTreeMap<_, BTreeSet<i64>> = BTreeMap::new();
    for row in &evidence.rows {
        periods.entry(row.account).or_default().insert(row.period_start);
    }
    periods.values().filter(|periods| periods.len() > 1).count()
}

impl Verdict {
    pub fn convict(&mut self, crime: Crime, what: impl FnOnce() -> String) {
        let count = self.counts.entry(crime).or_default();
        *count += 1;
        if *count <= EXAMPLES_MAX {
            self.examples.push(format!("{crime:?}: {}", what()));
        }
    }

    /// Adds the violations that another check found.
    pub fn add(&mut self, other: Self) {
        for (crime, count) in other.counts {
            *self.counts.entry(crime).or_default() += count;
        }
        self.examples.extend(other.examples);
    }

    pub fn count(&self, crime: Crime) -> u64 {
        self.counts.get(&crime).copied().unwrap_or(0)
    }

    pub fn is_clean(&self) -> bool {
        self.counts.is_empty()
    }
}
