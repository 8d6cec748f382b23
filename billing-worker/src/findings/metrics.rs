//! Metrics of findings.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};

use super::finding::FindingKind;

/// Cheap to clone; all clones count together.
#[derive(Clone, Default)]
pub struct FindingMetrics {
    open: Family<OfKind, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfKind {
    kind: &'static str,
}

impl FindingMetrics {
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "findings",
            "States in Stripe that an operator must solve, by kind; `reports attention` says what to do",
            self.open.clone(),
        );
    }

    /// Sets the number of open findings of each kind.
    pub fn show(&self, counts: &[(String, i64)]) {
        for kind in FindingKind::ALL.map(FindingKind::as_str) {
            let found = counts.iter().find(|(counted, _)| counted == kind);
            self.open
                .get_or_create(&OfKind { kind })
                .set(found.map_or(0, |(_, count)| *count));
        }
    }
}
