//! Asks ClickHouse which rows of a range it holds, by position. Only this proves that a range is stored.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use clickhouse::{Client, Row, query::Query};
use protocol::storing::StoredRows;
use schema::{clickhouse::identifier, manifest::StoredRange};
use serde::Deserialize;
use service::Backoff;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

/// How long to wait for running inserts.
const INSERTS_END_WITHIN: Duration = Duration::from_secs(120);

#[derive(Clone)]
pub struct Verifier {
    client: Client,
    /// The table of the queries that run on all servers.
    processes: String,
}

/// A shard's records from `first` to `last`, inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub generation: u32,
    pub shard: u16,
    pub first: u64,
    pub last: u64,
}

/// An event id at its position.
#[derive(Row, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoredEvent {
    pub stream_seq: u64,
    pub idx: u32,
    #[serde(with = "clickhouse::serde::uuid")]
    pub event_id: Uuid,
}

#[derive(Row, Deserialize)]
struct Count {
    rows: u64,
    positions: u64,
}

#[derive(Row, Deserialize)]
struct Newest {
    rows: u64,
    sealed_at_ms: i64,
}

impl Verifier {
    /// With a cluster, every replica answers with all inserts that any replica confirmed.
    pub fn new(client: Client, cluster: Option<&str>) -> Self {
        match cluster {
            None => Self {
                client,
                processes: "system.processes".to_owned(),
            },
            Some(cluster) => Self {
                client: client.with_setting("select_sequential_consistency", "1"),
                processes: format!("clusterAllReplicas({}, system.processes)", identifier(cluster)),
            },
        }
    }

    /// The same, for audits: it reads rows without projections, as other queries do. After a lightweight delete a projection still
    /// has the deleted rows, until ClickHouse merges its part.
    pub fn without_projections(self) -> Self {
        Self {
            client: self.client.with_setting("optimize_use_projections", "0"),
            ..self
        }
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    pub async fn stored_rows(&self, span: Span, rows: u64) -> Result<StoredRows> {
        let sql = "select count() as rows, uniqExact(stream_seq, idx) as positions from usage_events \
                   where generation = ? and shard = ? and stream_seq between ? and ?";
        let counted = bind(self.client.query(sql), span).fetch_one::<Count>();
        let Count { rows: all, positions } = within("counting the rows of a range", counted).await?;
        Ok(StoredRows::of(rows, all, positions))
    }

    /// The highest sequence with rows; `None`: the shard has none in this generation.
    pub async fn stored_through(&self, generation: u32, shard: u16) -> Result<Option<u64>> {
        let sql = "select max(stream_seq) from usage_events where generation = ? and shard = ?";
        let highest = self.client.query(sql).bind(generation).bind(shard).fetch_one::<u64>();
        Ok(Some(within("reading how far a shard is stored", highest).await?).filter(|seq| *seq > 0))
    }

    /// How many different positions of a span have rows.
    pub async fn positions(&self, span: Span) -> Result<u64> {
        let sql = "select uniqExact(stream_seq, idx) from usage_events \
                   where generation = ? and shard = ? and stream_seq between ? and ?";
        let positions = bind(self.client.query(sql), span).fetch_one::<u64>();
        within("counting the positions of a range", positions).await
    }

    /// The highest sequence before `below` with rows; 0: there is none.
    pub async fn stored_below(&self, generation: u32, shard: u16, below: u64) -> Result<u64> {
        let sql = "select max(stream_seq) from usage_events where generation = ? and shard = ? and stream_seq < ?";
        let query = self.client.query(sql).bind(generation).bind(shard).bind(below);
        within("reading how far a shard is stored", query.fetch_one::<u64>()).await
    }

    /// The newest record of the shard that has rows, as a range of its own. `None`: the shard has none in this generation.
    pub async fn newest(&self, generation: u32, shard: u16) -> Result<Option<StoredRange>> {
        let Some(seq) = self.stored_through(generation, shard).await? else {
            return Ok(None);
        };
        let sql = "select uniqExact(idx) as rows, toUnixTimestamp64Milli(max(ingested_at)) as sealed_at_ms from usage_events \
                   where generation = ? and shard = ? and stream_seq = ?";
        let query = self.client.query(sql).bind(generation).bind(shard).bind(seq);
        let newest = within("reading the newest rows of a shard", query.fetch_one::<Newest>()).await?;
        Ok(Some(StoredRange {
            first: seq,
            last: seq,
            rows: newest.rows,
            sealed_at_ms: newest.sealed_at_ms,
        }))
    }

    /// The first day that is not closed, in days since the Unix epoch.
    pub async fn open_from(&self) -> Result<i64> {
        let sql = "select toInt64(toUInt16(max(open_from))) from usage_open_from";
        within(
            "reading which days are closed",
            self.client.query(sql).fetch_one::<i64>(),
        )
        .await
    }

    /// The events of a span, in order. The caller bounds the span.
    pub async fn events(&self, span: Span) -> Result<Vec<StoredEvent>> {
        let sql = "select stream_seq, idx, event_id from usage_events \
                   where generation = ? and shard = ? and stream_seq between ? and ? order by stream_seq, idx";
        let rows = bind(self.client.query(sql), span).fetch_all::<StoredEvent>();
        within("reading the events of a span", rows).await
    }

    /// The events of a span that were dropped as duplicates, in order, each position once.
    pub async fn dropped(&self, span: Span) -> Result<Vec<StoredEvent>> {
        let sql = "select distinct stream_seq, idx, event_id from usage_duplicates \
                   where generation = ? and shard = ? and stream_seq between ? and ? order by stream_seq, idx";
        let rows = bind(self.client.query(sql), span).fetch_all::<StoredEvent>();
        within("reading the duplicates of a span", rows).await
    }

    /// The events of a span that ClickHouse holds, in order: as rows that count, or as duplicates.
    pub async fn events_and_dropped(&self, span: Span) -> Result<Vec<StoredEvent>> {
        let mut all = self.events(span).await?;
        all.extend(self.dropped(span).await?);
        all.sort_unstable();
        Ok(all)
    }

    /// The events of a span that earlier generations hold at the same positions, in order: as rows that count, or as duplicates.
    /// With the same event id it is the same record. Otherwise another record had that position.
    pub async fn earlier(&self, span: Span) -> Result<Vec<StoredEvent>> {
        let sql = |table: &str| {
            format!(
                "select distinct stream_seq, idx, event_id from {table} \
                 where generation < ? and shard = ? and stream_seq between ? and ?"
            )
        };
        let mut all = Vec::new();
        for table in ["usage_events", "usage_duplicates"] {
            let rows = bind(self.client.query(&sql(table)), span).fetch_all::<StoredEvent>();
            all.extend(within("reading the events of earlier generations", rows).await?);
        }
        all.sort_unstable();
        Ok(all)
    }

    /// The highest generation with rows; 0: there are none.
    pub async fn highest_generation(&self) -> Result<u32> {
        let sql = "select max(generation) from (select max(generation) as generation from usage_events \
                   union all select max(generation) as generation from usage_duplicates)";
        within(
            "reading the generations of the rows",
            self.client.query(sql).fetch_one::<u32>(),
        )
        .await
    }

    /// Whether an insert runs whose token starts like this.
    pub async fn is_inserting(&self, prefix: &str) -> Result<bool> {
        let sql = format!(
            "select count() from {} where startsWith(Settings['insert_deduplication_token'], ?)",
            self.processes
        );
        let running = self.client.query(&sql).bind(prefix).fetch_one::<u64>();
        Ok(within("asking which inserts run", running).await? > 0)
    }

    /// Waits until no insert runs whose token starts like this.
    pub async fn inserts_end(&self, prefix: &str) -> Result<()> {
        let all_end = async {
            let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
            while self.is_inserting(prefix).await? {
                sleep(backoff.next_delay()).await;
            }
            Ok(())
        };
        timeout(INSERTS_END_WITHIN, all_end)
            .await
            .with_context(|| format!("inserts still run after {INSERTS_END_WITHIN:?}"))?
    }

    /// Whether an insert with this token, or with a later token of the same range, is running.
    pub async fn is_running(&self, token: &str) -> Result<bool> {
        let sql = format!(
            "select count() from {} where Settings['insert_deduplication_token'] = ? \
             or startsWith(Settings['insert_deduplication_token'], ?)",
            self.processes
        );
        let running = self
            .client
            .query(&sql)
            .bind(token)
            .bind(format!("{token}#"))
            .fetch_one::<u64>();
        Ok(within("asking which inserts run", running).await? > 0)
    }
}

/// Fills in `generation = ? and shard = ? and stream_seq between ? and ?`.
pub fn bind(query: Query, span: Span) -> Query {
    query
        .bind(span.generation)
        .bind(span.shard)
        .bind(span.first)
        .bind(span.last)
}

/// Bounds a query: one that hangs must not block a shard.
pub async fn within<T>(what: &'static str, query: impl Future<Output = clickhouse::error::Result<T>>) -> Result<T> {
    within_limit(Duration::from_secs(30), what, query).await
}

/// The same with another limit, for a query that no shard waits for.
pub async fn within_limit<T>(
    limit: Duration,
    what: &'static str,
    query: impl Future<Output = clickhouse::error::Result<T>>,
) -> Result<T> {
    match tokio::time::timeout(limit, query).await {
        Ok(answer) => answer.context(what),
        Err(_) => bail!("{what}: no answer in {limit:?}"),
    }
}
