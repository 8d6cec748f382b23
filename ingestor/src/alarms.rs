//! Shards that wait for an operator. Shown in the log, on `/readyz` and as a metric until the shard continues.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use service::Health;
use tracing::{error, info};

use crate::metrics::{Metrics, Shard};

const PART: &str = "shards";

#[derive(Clone, Debug)]
pub struct Alarms {
    health: Health,
    metrics: Metrics,
    raised: Arc<Mutex<BTreeMap<u16, String>>>,
}

impl Alarms {
    pub fn new(health: Health, metrics: Metrics) -> Self {
        health.up(PART);
        Self {
            health,
            metrics,
            raised: Arc::default(),
        }
    }

    /// Reports that the shard waits, and why. Logged once for each reason.
    pub fn raise(&self, shard: u16, why: &str) {
        let mut raised = self.raised.lock().unwrap_or_else(PoisonError::into_inner);
        if raised.get(&shard).is_none_or(|before| before != why) {
            error!(shard, "the shard waits for an operator: {why}");
            self.metrics.alarms.get_or_create(&Shard { shard }).inc();
        }
        self.metrics.alarmed.get_or_create(&Shard { shard }).set(1);
        raised.insert(shard, why.to_owned());
        self.show(&raised);
    }

    /// Clears the alarm: the shard continues, or is no longer ours.
    pub fn clear(&self, shard: u16) {
        let mut raised = self.raised.lock().unwrap_or_else(PoisonError::into_inner);
        if raised.remove(&shard).is_some() {
            info!(shard, "the shard no longer waits for an operator");
            self.metrics.alarmed.get_or_create(&Shard { shard }).set(0);
            self.show(&raised);
        }
    }

    fn show(&self, raised: &BTreeMap<u16, String>) {
        match raised
            .iter()
            .map(|(shard, why)| format!("shard {shard}: {why}"))
            .reduce(|a, b| format!("{a}; {b}"))
        {
            None => self.health.up(PART),
            Some(all) => self.health.down(PART, all),
        }
    }
}
