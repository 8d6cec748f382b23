//! Metrics of the cache of keys and accounts.

use std::sync::atomic::AtomicI64;

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

#[derive(Clone, Debug)]
pub(crate) struct KeyMetrics {
    pub hits: Counter,
    pub misses: Counter,
    pub unknown: Counter,
    pub refreshes_failed: Counter,
    pub keys: Gauge<i64, AtomicI64>,
    pub accounts: Gauge<i64, AtomicI64>,
    pub unread: Gauge<i64, AtomicI64>,
}

impl KeyMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("gateway_keys");
        let lookups = Family::<[(&'static str, &'static str); 1], Counter>::default();
        registry.register(
            "lookups",
            "Look-ups of keys, by the result in the cache",
            lookups.clone(),
        );
        let refreshes_failed = Counter::default();
        registry.register(
            "refreshes_failed",
            "Failed attempts to read cached keys and accounts again",
            refreshes_failed.clone(),
        );
        let (keys, accounts, unread) = (Gauge::default(), Gauge::default(), Gauge::default());
        registry.register("cached", "Keys in the cache at its last refresh", keys.clone());
        registry.register(
            "accounts_cached",
            "Accounts in memory at the last refresh",
            accounts.clone(),
        );
        registry.register(
            "unread",
            "Keys and accounts with an announced change that could not be read yet; they are refused",
            unread.clone(),
        );
        let result = |value| lookups.get_or_create_owned(&[("result", value)]);
        Self {
            hits: result("hit"),
            misses: result("miss"),
            unknown: result("unknown"),
            refreshes_failed,
            keys,
            accounts,
            unread,
        }
    }
}
