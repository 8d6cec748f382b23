//! Holds what clients were told against what the stores hold. Pure: it is given all of it, and says what cannot be.
//!
//! It convicts only of what is certain: where a fault allows several outcomes, each of them is right.

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

/// What a guarantee forbids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Crime {
    /// Accepted, and not stored.
    Lost,
    /// Stored more than once.
    Doubled,
    /// Stored, and nobody asked for it.
    Invented,
    /// Stored, though the client was told that it was not counted.
    Refused,
    /// Stored with other units, or of another account, key or usage type.
    Different,
    /// Admitted past the limit in force.
    OverAdmitted,
    /// Accepted with a key that was revoked.
    Late,
    /// Granted units that are neither spent nor held, or spent units that were not granted.
    PoolDrift,
    /// A position of the stream that is neither a row nor dropped, a row that is at none, or a shard that is not done.
    Position,
    /// Stripe was told other than what was counted.
    StripeDrift,
    /// The system, healed and left alone, did not come to rest.
    Restless,
}

/// All that was found: counts by crime, and the first few of each in words.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Verdict {
    pub counts: BTreeMap<Crime, u64>,
    pub examples: Vec<String>,
}

/// Examples of one crime.
const EXAMPLES_MAX: u64 = 5;

/// Judges everything.
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

    /// What another check found, too.
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
