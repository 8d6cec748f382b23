//! Shards that wait for an operator, or that store lost rows again. Shown in the log, on `/readyz` and as a metric until the shard
//! continues.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use schema::manifest::LostRange;
use service::Health;
use tracing::{error, info};

use crate::metrics::{Metrics, Shard};

const PART: &str = "shards";
const ROWS: &str = "rows";

#[derive(Clone, Debug)]
pub struct Alarms {
    health: Health,
    metrics: Metrics,
    raised: Arc<Mutex<BTreeMap<u16, String>>>,
    lost: Arc<Mutex<BTreeMap<u16, Vec<LostRange>>>>,
}

impl Alarms {
    pub fn new(health: Health, metrics: Metrics) -> Self {
        health.up(PART);
        Self {
            health,
            metrics,
            raised: Arc::default(),
            lost: Arc::default(),
        }
    }

    /// Reports that the shard waits, and why. Logged once for each reason.
    pub fn raise(&self, shard: u16, why: &str) {
        if self.set(shard, why) {
            error!(shard, "the shard waits for an operator: {why}");
            self.metrics.alarms.get_or_create(&Shard { shard }).inc();
        }
        self.metrics.alarmed.get_or_create(&Shard { shard }).set(1);
    }

    /// Reports that ClickHouse lost rows of the shard, from this record on, and that they are stored again.
    pub fn behind(&self, shard: u16, from: u64, done_through: u64) {
        let why = format!(
            "ClickHouse lost rows of records {from} to {done_through}: storing them again before new records are read"
        );
        if self.set(shard, &why) {
            error!(shard, from, done_through, "{why}");
            self.metrics.alarms.get_or_create(&Shard { shard }).inc();
        }
        self.metrics.behind.get_or_create(&Shard { shard }).set(1);
    }

    /// Reports the records of the shard that neither ClickHouse nor the stream has. None: there are no such records any more.
    pub fn lost(&self, shard: u16, lost: &[LostRange]) {
        let mut all = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match lost {
            [] => all.remove(&shard),
            _ => all.insert(shard, lost.to_vec()),
        };
        let ranges = i64::try_from(lost.len()).unwrap_or(i64::MAX);
        self.metrics.lost.get_or_create(&Shard { shard }).set(ranges);
        for range in lost {
            if before.as_ref().is_none_or(|before| !before.contains(range)) {
                error!(
                    shard,
                    first = range.first,
                    last = range.last,
                    "ClickHouse lost the rows of these records, and the stream does not have them any more: restore them from a \
                     backup, or accept the loss (see `ingestor losses`)"
                );
            }
        }
        let shown = all.iter().flat_map(|(shard, lost)| {
            let range = move |range: &LostRange| {
                format!(
                    "shard {shard}: the rows of records {} to {} are lost",
                    range.first, range.last
                )
            };
            lost.iter().map(range)
        });
        match shown.reduce(|a, b| format!("{a}; {b}")) {
            None => self.health.up(ROWS),
            Some(all) => self.health.replaced(ROWS, format!("{all} (see `ingestor losses`)")),
        }
    }

    /// Clears the alarm: the shard continues, or is no longer ours.
    pub fn clear(&self, shard: u16) {
        let mut raised = self.raised.lock().unwrap_or_else(PoisonError::into_inner);
        if raised.remove(&shard).is_some() {
            info!(shard, "the alarm of the shard is over");
            self.metrics.alarmed.get_or_create(&Shard { shard }).set(0);
            self.metrics.behind.get_or_create(&Shard { shard }).set(0);
            self.show(&raised);
        }
    }

    /// Whether the reason is new.
    fn set(&self, shard: u16, why: &str) -> bool {
        let mut raised = self.raised.lock().unwrap_or_else(PoisonError::into_inner);
        let before = raised.insert(shard, why.to_owned());
        self.show(&raised);
        before.is_none_or(|before| before != why)
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
