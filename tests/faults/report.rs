//! The result of a run, for people and for machines.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use serde::Serialize;

use super::checker::{Figures, Violation, Violations};

#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub seed: u64,
    /// How long faults were injected.
    pub seconds: u64,
    #[serde(flatten)]
    pub figures: Figures,
    /// Number of faults, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    pub rows: usize,
    pub revocations: usize,
    /// Services that exited on their own, and why.
    pub gave_up: Vec<String>,
    #[serde(flatten)]
    pub violations: Violations,
    /// Where the logs and data of a failed run are.
    pub kept: Option<PathBuf>,
}

impl Report {
    pub fn json(&self) -> serde_json::Value {
        let mut json = serde_json::to_value(self).unwrap_or_default();
        // Also print figures that are 0.
        for (name, violation) in NAMES {
            json[name] = self.violations.count(violation).into();
        }
        json["ok"] = self.violations.is_clean().into();
        json
    }
}

/// The figures that must be 0.
const NAMES: [(&str, Violation); 11] = [
    ("lost", Violation::Lost),
    ("doubled", Violation::Doubled),
    ("invented", Violation::Invented),
    ("refused_and_stored", Violation::Refused),
    ("different", Violation::Different),
    ("over_admitted", Violation::OverAdmitted),
    ("late_after_revocation", Violation::Late),
    ("pool_drift", Violation::PoolDrift),
    ("misplaced", Violation::Position),
    ("stripe_drift", Violation::StripeDrift),
    ("restless", Violation::Restless),
];

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let figures = &self.figures;
        writeln!(f, "seed {}, faults for {} s", self.seed, self.seconds)?;
        let refused: u64 = figures.refused.values().sum();
        let unknown: u64 = figures.unknown.values().sum();
        writeln!(
            f,
            "requests   {} = {} accepted + {} failed upstream + {refused} refused + {unknown} unknown + {} not sent; {} rows",
            figures.requests, figures.accepted, figures.failed_upstream, figures.not_sent, self.rows
        )?;
        writeln!(f, "refused    {}", list(&figures.refused))?;
        let unknown: BTreeMap<String, u64> = figures
            .unknown
            .iter()
            .map(|(doubt, count)| (format!("{doubt:?}"), *count))
            .collect();
        writeln!(f, "unknown    {}", list(&unknown))?;
        let faults: u64 = self.faults.values().sum();
        writeln!(
            f,
            "faults     {faults}: {}; {} revocations",
            list(&self.faults),
            self.revocations
        )?;
        let seconds = |ms: i64| format!("{}.{:01} s", ms / 1_000, ms % 1_000 / 100);
        let gateways: Vec<String> = figures
            .unavailable_ms
            .iter()
            .map(|(gateway, ms)| format!("gateway-{} {}", gateway + 1, seconds(*ms)))
            .collect();
        writeln!(
            f,
            "longest unavailability   {}; all {} from {} on",
            gateways.join(", "),
            seconds(figures.all_unavailable_ms),
            seconds(figures.all_unavailable_from_ms)
        )?;
        writeln!(
            f,
            "falsely refused   {} ({} more while a part was in trouble)",
            figures.falsely_refused, figures.refused_while_troubled
        )?;
        writeln!(
            f,
            "revoked keys   accepted for {} at the longest; {} accounts with more than one period",
            seconds(figures.longest_after_revocation_ms),
            figures.rolled_over
        )?;
        for line in &self.gave_up {
            writeln!(f, "note: {line}")?;
        }
        let zeros: Vec<String> = NAMES
            .iter()
            .map(|(name, violation)| format!("{} {}", name.replace('_', " "), self.violations.count(*violation)))
            .collect();
        writeln!(f, "{}", zeros.join(", "))?;
        for example in &self.violations.examples {
            writeln!(f, "  {example}")?;
        }
        match &self.kept {
            None => write!(f, "ok"),
            Some(kept) => write!(f, "FAILED; logs, history and data are in {}", kept.display()),
        }
    }
}

fn list<K: fmt::Display>(counts: &BTreeMap<K, u64>) -> String {
    let items: Vec<String> = counts.iter().map(|(what, count)| format!("{what} {count}")).collect();
    items.join(", ")
}
