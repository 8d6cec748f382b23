//! The metrics of the ingestor.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Shard {
    pub shard: u16,
}

/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub owned: Gauge,
    pub rows: Family<Shard, Counter>,
    pub duplicates: Family<Shard, Counter>,
    pub ids_asked: Family<Shard, Counter>,
    pub batches: Family<Shard, Counter>,
    pub unread: Family<Shard, Gauge>,
    pub in_hand: Family<Shard, Gauge>,
    pub lag_ms: Family<Shard, Gauge>,
    pub done_through: Family<Shard, Gauge>,
    pub insert_seconds: Histogram,
    pub batch_rows: Histogram,
    pub insert_retries: Family<Shard, Counter>,
    pub swallowed_tokens: Family<Shard, Counter>,
    pub dead_letters: Family<Shard, Counter>,
    pub reader_resets: Family<Shard, Counter>,
    pub alarmed: Family<Shard, Gauge>,
    pub alarms: Family<Shard, Counter>,
    pub behind: Family<Shard, Gauge>,
    pub lost: Family<Shard, Gauge>,
    pub stalled: Family<Shard, Gauge>,
    pub trimmed: Family<Shard, Counter>,
    pub audited: Family<Shard, Counter>,
    pub audit_missing: Family<Shard, Counter>,
    pub audit_doubled: Family<Shard, Counter>,
    pub audit_repeated: Family<Shard, Gauge>,
}

impl Metrics {
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            owned: Gauge::default(),
            rows: Family::default(),
            duplicates: Family::default(),
            ids_asked: Family::default(),
            batches: Family::default(),
            unread: Family::default(),
            in_hand: Family::default(),
            lag_ms: Family::default(),
            done_through: Family::default(),
            // 4 ms to 65 s; 1 to 262,144 rows.
            insert_seconds: Histogram::new(exponential_buckets(0.004, 2.0, 15)),
            batch_rows: Histogram::new(exponential_buckets(1.0, 4.0, 10)),
            insert_retries: Family::default(),
            swallowed_tokens: Family::default(),
            dead_letters: Family::default(),
            reader_resets: Family::default(),
            alarmed: Family::default(),
            alarms: Family::default(),
            behind: Family::default(),
            lost: Family::default(),
            stalled: Family::default(),
            trimmed: Family::default(),
            audited: Family::default(),
            audit_missing: Family::default(),
            audit_doubled: Family::default(),
            audit_repeated: Family::default(),
        };
        let registry = registry.sub_registry_with_prefix("ingestor");
        registry.register("shards_owned", "Shards that this ingestor reads", metrics.owned.clone());
        registry.register("rows", "Rows stored and verified", metrics.rows.clone());
        registry.register(
            "duplicates",
            "Events dropped because an event with the same Idempotency-Key was stored before",
            metrics.duplicates.clone(),
        );
        registry.register(
            "ids_asked",
            "Event ids with an Idempotency-Key that were looked up in ClickHouse",
            metrics.ids_asked.clone(),
        );
        registry.register("batches", "Ranges stored and verified", metrics.batches.clone());
        registry.register(
            "shard_unread_records",
            "Records of the shard in the stream that are not read yet",
            metrics.unread.clone(),
        );
        registry.register(
            "shard_in_hand_records",
            "Records that are read and not stored yet",
            metrics.in_hand.clone(),
        );
        registry.register(
            "shard_lag_ms",
            "Age in milliseconds of the oldest record that is read and not stored yet; 0 if there is none",
            metrics.lag_ms.clone(),
        );
        registry.register(
            "shard_done_through",
            "Stream sequence up to which the shard is stored",
            metrics.done_through.clone(),
        );
        registry.register_with_unit(
            "insert",
            "Time from the start of an insert to its verified rows",
            Unit::Seconds,
            metrics.insert_seconds.clone(),
        );
        registry.register("batch_rows", "Rows of a range", metrics.batch_rows.clone());
        registry.register(
            "insert_retries",
            "Inserts that failed and were retried",
            metrics.insert_retries.clone(),
        );
        registry.register(
            "swallowed_tokens",
            "Confirmed inserts without rows, because a crash of ClickHouse left the token without the rows",
            metrics.swallowed_tokens.clone(),
        );
        registry.register(
            "dead_letters",
            "Records that could not be decoded",
            metrics.dead_letters.clone(),
        );
        registry.register(
            "reader_resets",
            "Readers created again after a gap or silence",
            metrics.reader_resets.clone(),
        );
        registry.register(
            "shard_alarmed",
            "1 while the shard waits for an operator",
            metrics.alarmed.clone(),
        );
        registry.register("alarms", "Alarms raised", metrics.alarms.clone());
        registry.register(
            "shard_behind",
            "1 while ClickHouse lacks rows of the shard that were stored, and they are stored again",
            metrics.behind.clone(),
        );
        registry.register(
            "shard_lost_ranges",
            "Ranges of the shard whose rows neither ClickHouse nor the stream has",
            metrics.lost.clone(),
        );
        registry.register(
            "shard_stalled_seconds",
            "Seconds for which records of the shard wait and none was stored; 0 below 30",
            metrics.stalled.clone(),
        );
        registry.register(
            "trimmed_records",
            "Stored records removed from the stream",
            metrics.trimmed.clone(),
        );
        registry.register(
            "audited_records",
            "Records that audits compared with their rows",
            metrics.audited.clone(),
        );
        registry.register(
            "audit_missing_rows",
            "Missing rows that audits stored",
            metrics.audit_missing.clone(),
        );
        registry.register(
            "audit_doubled_rows",
            "Doubled rows that audits removed",
            metrics.audit_doubled.clone(),
        );
        registry.register(
            "audit_repeated_rows",
            "Rows within the audit window that repeat an event of another generation; audits do not remove them",
            metrics.audit_repeated.clone(),
        );
        metrics
    }
}
