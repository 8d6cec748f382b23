//! Metrics of connections.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use problem::Kind;

use super::pulse::Overdue;

/// Cheap to clone. All clones share their counts.
#[derive(Clone, Debug, Default)]
pub struct ServerMetrics {
    open: Gauge,
    cut: Family<Cut, Counter>,
    invalid: Family<Invalid, Counter>,
    pub(super) refused: Counter,
    pub(super) full: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Cut {
    overdue: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Invalid {
    error: &'static str,
}

/// Counts a connection as open until it is dropped.
pub(super) struct Open(Gauge);

impl ServerMetrics {
    pub fn register(&self, registry: &mut Registry) {
        registry.register("connections_open", "Open connections of clients", self.open.clone());
        registry.register(
            "connections_refused",
            "Connections closed at once, because their address had reached its limit (CONNECTIONS_PER_ADDRESS)",
            self.refused.clone(),
        );
        registry.register(
            "connections_cut",
            "Connections cut because the client was too slow",
            self.cut.clone(),
        );
        registry.register(
            "connections_full",
            "Times that the limit of connections was reached, so that new ones had to wait (CONNECTIONS_MAX)",
            self.full.clone(),
        );
        registry.register(
            "requests_invalid",
            "Requests that no route saw: ambiguous, or with an API key in their URL",
            self.invalid.clone(),
        );
    }

    pub(super) fn invalid(&self, kind: Kind) {
        let error = kind.error();
        self.invalid.get_or_create(&Invalid { error }).inc();
    }

    pub(super) fn open(&self) -> Open {
        self.open.inc();
        Open(self.open.clone())
    }

    pub(super) fn cut(&self, overdue: Overdue) {
        let overdue = overdue.name();
        self.cut.get_or_create(&Cut { overdue }).inc();
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}
