//! Compares the responses that clients got with the data in the stores. Pure: it gets all evidence and reports contradictions.
//!
//! It reports a violation only when it is certain: if a fault allows several outcomes, it accepts each of them.

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
pub enum Violation {
    /// Accepted, but not stored.
    Lost,
    /// Stored more than once.
    Doubled,
    /// Stored, but no client sent it.
    Invented,
    /// Stored, although its response said that it was not counted.
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
pub struct Violations {
    pub counts: BTreeMap<Violation, u64>,
    pub examples: Vec<String>,
}

/// Examples kept for each kind.
const EXAMPLES_MAX: u64 = 5;

/// Runs all checks.
pub fn check(evidence: &Evidence) -> (Violations, Figures) {
    let (mut violations, mut figures) = (Violations::default(), Figures::of(&evidence.history));
    figures.rolled_over = rolled_over(evidence);
    events::check(evidence, &mut violations);
    over_admission::check(evidence, &mut violations);
    revocations::check(evidence, &mut violations, &mut figures);
    pools::check(evidence, &mut violations);
    positions::check(evidence, &mut violations);
    for line in evidence.reported.iter().filter(|line| line.stripe != line.counted) {
        violations.record(Violation::StripeDrift, || {
            format!("{}: Stripe has {}, ClickHouse {}", line.name, line.stripe, line.counted)
        });
    }
    refusals::count(evidence, &mut figures);
    (violations, figures)
}

fn rolled_over(evidence: &Evidence) -> usize {
    let mut periods: BTreeMap<_, BTreeSet<i64>> = BTreeMap::new();
    for row in &evidence.rows {
        periods.entry(row.account).or_default().insert(row.period_start);
    }
    periods.values().filter(|periods| periods.len() > 1).count()
}

impl Violations {
    pub fn record(&mut self, violation: Violation, what: impl FnOnce() -> String) {
        let count = self.counts.entry(violation).or_default();
        *count += 1;
        if *count <= EXAMPLES_MAX {
            self.examples.push(format!("{violation:?}: {}", what()));
        }
    }

    /// Adds the violations that another check found.
    pub fn merge(&mut self, other: Self) {
        for (violation, count) in other.counts {
            *self.counts.entry(violation).or_default() += count;
        }
        self.examples.extend(other.examples);
    }

    pub fn count(&self, violation: Violation) -> u64 {
        self.counts.get(&violation).copied().unwrap_or(0)
    }

    pub fn is_clean(&self) -> bool {
        self.counts.is_empty()
    }
}
