//! Metrics of decisions and leases. The handles are kept in a struct, so that the hot path looks nothing up.

use std::sync::atomic::AtomicI64;

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

type Labelled = Family<[(&'static str, &'static str); 1], Counter>;

#[derive(Clone, Debug)]
pub(crate) struct QuotaMetrics {
    pub admitted_local: Counter,
    pub admitted_postgres: Counter,
    pub admitted_unleased: Counter,
    pub refused_limit: Counter,
    pub refused_spend_cap: Counter,
    pub refusals_remembered: Counter,
    pub refusals_waited: Counter,
    pub refusals_asked: Counter,
    pub recalls_complete: Counter,
    pub recalls_incomplete: Counter,
    pub recalls_timed_out: Counter,
    pub recalls_returned: Counter,
    pub recalls_nothing: Counter,
    pub recalls_cannot: Counter,
    pub refused_payment: Counter,
    pub refused_unavailable: Counter,
    pub transactions_committed: Counter,
    pub transactions_failed: Counter,
    pub leases_granted: Counter,
    pub units_granted: Counter,
    pub leases_returned: Counter,
    pub units_returned: Counter,
    pub gateways_live: Gauge<i64, AtomicI64>,
}

impl QuotaMetrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("gateway_quota");
        let admitted = Labelled::default();
        registry.register(
            "admitted",
            "Requests admitted, by where the units came from",
            admitted.clone(),
        );
        let refused = Labelled::default();
        registry.register("refused", "Requests refused, by reason", refused.clone());
        let refusals = Labelled::default();
        registry.register(
            "refusals",
            "Requests refused at their limit, by the source: remembered (no I/O), waited (for the request ahead), asked (PostgreSQL)",
            refusals.clone(),
        );
        let recalls = Labelled::default();
        registry.register(
            "recalls",
            "Refusals after other gateways were asked for their units, by whether all of them answered",
            recalls.clone(),
        );
        let recalls_answered = Labelled::default();
        registry.register(
            "recalls_answered",
            "Recalls of other gateways that this one answered, by outcome",
            recalls_answered.clone(),
        );
        let transactions = Labelled::default();
        registry.register(
            "lease_transactions",
            "Transactions that take and give back leases, by outcome",
            transactions.clone(),
        );
        let counter = |registry: &mut Registry, name: &str, help: &str| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let gateways_live = Gauge::default();
        registry.register(
            "gateways_live",
            "Live gateways, as the last lease transaction saw them",
            gateways_live.clone(),
        );
        Self {
            admitted_local: one(&admitted, "source", "local"),
            admitted_postgres: one(&admitted, "source", "postgres"),
            admitted_unleased: one(&admitted, "source", "unleased"),
            refused_limit: one(&refused, "reason", "limit"),
            refused_spend_cap: one(&refused, "reason", "spend_cap"),
            refusals_remembered: one(&refusals, "source", "remembered"),
            refusals_waited: one(&refusals, "source", "waited"),
            refusals_asked: one(&refusals, "source", "asked"),
            recalls_complete: one(&recalls, "outcome", "complete"),
            recalls_incomplete: one(&recalls, "outcome", "incomplete"),
            recalls_timed_out: counter(
                registry,
                "recalls_timed_out",
                "Recalls that a gateway with units did not answer in time",
            ),
            recalls_returned: one(&recalls_answered, "outcome", "returned"),
            recalls_nothing: one(&recalls_answered, "outcome", "nothing"),
            recalls_cannot: one(&recalls_answered, "outcome", "cannot"),
            refused_payment: one(&refused, "reason", "payment"),
            refused_unavailable: one(&refused, "reason", "unavailable"),
            transactions_committed: one(&transactions, "outcome", "committed"),
            transactions_failed: one(&transactions, "outcome", "failed"),
            leases_granted: counter(registry, "leases_granted", "Leases granted to this gateway"),
            units_granted: counter(registry, "units_granted", "Units granted to this gateway"),
            leases_returned: counter(registry, "leases_returned", "Leases given back completely"),
            units_returned: counter(registry, "units_returned", "Units given back by this gateway"),
            gateways_live,
        }
    }
}

fn one(family: &Labelled, label: &'static str, value: &'static str) -> Counter {
    family.get_or_create_owned(&[(label, value)])
}
