//! Compares the stream with ClickHouse, record by record. Each range was verified when it was stored. The audit finds problems
//! that this check cannot find: rows of an ingestor that was paused between its check and its insert, and unknown faults. It
//! stores missing rows, removes doubled rows, and logs both.
//!
//! A row of an earlier generation counts, so an audit stores no event again. If the stream is not the one that was stored, the
//! audit fails and stores nothing. Events that two generations stored are reported, not repaired.

use std::{collections::HashMap, ops::AddAssign, sync::Arc};

use anyhow::{Context, Result};
use clickhouse::Row;
use protocol::{
    audit::Held,
    claim::{self, Beginning},
    range::EventPosition,
};
use schema::{UsageEvent, clock, names};
use serde::Deserialize;
use time::OffsetDateTime;
use tracing::{error, info, warn};

use crate::{
    config::DuplicateSettings,
    ingest::Ingest,
    manifests::Manifests,
    metrics::{Metrics, Shard},
    pipeline::{
        continuity,
        reader::Reader,
        sink::Sink,
        verify::{Span, StoredEvent, Verifier, bind, within},
    },
    stop::Stop,
    stream::UsageStream,
    upkeep::{
        earlier,
        repair::Repair,
        repeated,
        reread::{self, Reread},
    },
};

#[derive(Clone)]
pub struct Audit {
    pub stream: UsageStream,
    pub manifests: Manifests,
    pub verifier: Verifier,
    pub sink: Sink,
    pub metrics: Metrics,
    pub duplicates: DuplicateSettings,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub records: u64,
    pub rows: u64,
    /// Rows that were missing and are now stored.
    pub missing: u64,
    /// Doubled rows that are now removed.
    pub doubled: u64,
    /// Rows that are still wrong.
    pub left: u64,
    /// Rows that repeat an event of another generation.
    pub repeated: u64,
}

/// How many rows and positions ClickHouse holds of a record.
#[derive(Row, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordRows {
    pub stream_seq: u64,
    pub rows: u64,
    pub positions: u64,
}

/// The records whose rows differ from the stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// Sequences of records with fewer positions than events.
    pub missing: Vec<u64>,
    pub missing_rows: u64,
    /// Sequences of records with more rows than positions.
    pub doubled: Vec<u64>,
    pub doubled_rows: u64,
}

/// Audits the shards of this ingestor periodically. Each audit overlaps the previous one a little.
pub async fn run(ingest: Arc<Ingest>, audit: Audit) -> Result<()> {
    loop {
        tokio::select! {
            () = ingest.life.stopping() => return Ok(()),
            () = tokio::time::sleep(ingest.settings.audit_interval) => {}
            () = ingest.audit_soon.notified() => {}
        }
        let since = schema::clock::now() - ingest.settings.audit_window;
        for shard in ingest.owned.all().into_keys() {
            let audited = tokio::select! {
                () = ingest.life.stopping() => return Ok(()),
                audited = audit.shard(shard, since) => audited,
            };
            match audited {
                Ok(report) => info!(shard, records = report.records, rows = report.rows, "audited"),
                Err(Stop::Alarm(why)) => error!(shard, "could not audit the shard: {why}"),
                Err(stop) => warn!(shard, "could not audit the shard: {stop}"),
            }
        }
    }
}

impl Audit {
    /// Audits all records that the stream holds, of all shards, and looks for repeated events in all rows.
    pub async fn everything(&self) -> Result<Report> {
        let mut all = Report::default();
        for shard in 0..self.stream.shards {
            all += self
                .compare(shard, None)
                .await
                .with_context(|| format!("auditing shard {shard}"))?;
        }
        all.repeated = repeated::rows(&self.verifier, 0..=u16::MAX, 0).await?;
        Ok(all)
    }

    /// Audits the stored ranges of one shard, from the records of `since` on, and looks for repeated events in its rows since
    /// then.
    pub async fn shard(&self, shard: u16, since: OffsetDateTime) -> Result<Report, Stop> {
        let mut report = self.compare(shard, Some(since)).await?;
        report.repeated = repeated::rows(&self.verifier, shard..=shard, clock::unix_ms(since)).await?;
        if report.repeated > 0 {
            error!(
                shard,
                rows = report.repeated,
                "rows repeat an event of another generation: see `ingestor audit`"
            );
        }
        let repeated = i64::try_from(report.repeated).unwrap_or(i64::MAX);
        self.metrics
            .audit_repeated
            .get_or_create(&Shard { shard })
            .set(repeated);
        Ok(report)
    }

    /// Compares the stored ranges of one shard with the stream, from the records of `since` on.
    async fn compare(&self, shard: u16, since: Option<OffsetDateTime>) -> Result<Report, Stop> {
        let (Some(manifest), _) = self.manifests.read(shard).await? else {
            return Ok(Report::default());
        };
        let manifest = match claim::beginning(Some(manifest), self.stream.state().await?, None) {
            Beginning::At(manifest) | Beginning::Moved(manifest) => manifest,
            Beginning::Alarm(why) => return Err(Stop::Alarm(why)),
        };
        continuity::check(&self.stream, &self.verifier, shard, &manifest).await?;
        let from = match since {
            None => 1,
            Some(since) => match self.stream.first_since(shard, since).await? {
                None => return Ok(Report::default()),
                Some(first) => first,
            },
        };
        let reader = self.reader(shard, manifest.generation, from - 1);
        self.records(reader, manifest.generation, shard, manifest.done_through)
            .await
    }

    /// Compares the records up to and including `last` with their rows of this generation and earlier ones. Repairs differences.
    pub async fn records(&self, mut reader: Reader, generation: u32, shard: u16, last: u64) -> Result<Report, Stop> {
        let mut report = Report::default();
        loop {
            let chunk = reread::next(&mut reader, last).await?;
            if chunk.is_empty() {
                self.count(shard, &report);
                return Ok(report);
            }
            report += self.chunk(generation, shard, chunk).await?;
        }
    }

    /// Reads a shard after the record `after`. `generation`: the one that the stream has.
    pub fn reader(&self, shard: u16, generation: u32, after: u64) -> Reader {
        Reader::new(self.stream.clone(), self.metrics.clone(), shard, generation, after)
    }

    async fn chunk(&self, generation: u32, shard: u16, chunk: Vec<Reread>) -> Result<Report, Stop> {
        let span = Span {
            generation,
            shard,
            first: chunk.first().map_or(0, |record| record.seq),
            last: chunk.last().map_or(0, |record| record.seq),
        };
        let rows = self.rows(span).await?;
        let mut found = differences(&chunk, &rows);
        let mut earlier = Vec::new();
        if !found.missing.is_empty() {
            earlier = self.earlier(span, &chunk, &found.missing, &rows).await?;
            found = differences(&chunk, &with_others(rows, &earlier));
        }
        let mut report = Report {
            records: chunk.len() as u64,
            rows: chunk.iter().map(|record| record.content.events() as u64).sum(),
            missing: found.missing_rows,
            doubled: found.doubled_rows,
            ..Report::default()
        };
        if found == Differences::default() {
            return Ok(report);
        }
        error!(
            shard,
            first = span.first,
            last = span.last,
            missing = found.missing_rows,
            doubled = found.doubled_rows,
            "stored ranges differ from the stream: repairing them"
        );
        let repair = Repair {
            verifier: &self.verifier,
            sink: &self.sink,
            manifests: &self.manifests,
            stream: names::USAGE_STREAM,
            span,
            duplicates: &self.duplicates,
        };
        repair.remove_doubled(&found.doubled).await?;
        let (missing, kept): (Vec<_>, Vec<_>) = chunk
            .into_iter()
            .partition(|record| found.missing.binary_search(&record.seq).is_ok());
        let expected: Vec<(u64, u64)> = missing
            .iter()
            .chain(&kept)
            .map(|record| (record.seq, record.content.events() as u64))
            .collect();
        repair.store_missing(missing, &earlier).await?;
        let after = differences_of(expected, &with_others(self.rows(span).await?, &earlier));
        report.left = after.missing_rows + after.doubled_rows;
        if report.left > 0 {
            error!(
                shard,
                first = span.first,
                last = span.last,
                rows = report.left,
                "could not repair all rows"
            );
        }
        Ok(report)
    }

    /// The positions of these records that only an earlier generation holds. Fails if a row of this generation has another event
    /// than the record at its position.
    async fn earlier(
        &self,
        span: Span,
        chunk: &[Reread],
        seqs: &[u64],
        rows: &[RecordRows],
    ) -> Result<Vec<EventPosition>, Stop> {
        let here = match rows {
            [] => Vec::new(),
            _ => self.verifier.events_and_dropped(span).await?,
        };
        if let Some(seq) = other_record(chunk, &here) {
            return Err(Stop::Alarm(continuity::not_the_stored(seq)));
        }
        let records = chunk.iter().filter(|record| seqs.binary_search(&record.seq).is_ok());
        Ok(earlier::positions(&self.verifier, span, records, &here).await?)
    }

    async fn rows(&self, span: Span) -> Result<Vec<RecordRows>> {
        let sql = "select stream_seq, count() as rows, uniqExact(idx) as positions from usage_events \
                   where generation = ? and shard = ? and stream_seq between ? and ? group by stream_seq";
        let found = within(
            "counting rows by record",
            bind(self.verifier.client().query(sql), span).fetch_all::<RecordRows>(),
        )
        .await?;
        let dropped = self.verifier.dropped(span).await?;
        let dropped: Vec<EventPosition> = dropped.iter().map(|row| (row.stream_seq, row.idx)).collect();
        Ok(with_others(found, &dropped))
    }

    fn count(&self, shard: u16, report: &Report) {
        let shard = Shard { shard };
        self.metrics.audited.get_or_create(&shard).inc_by(report.records);
        self.metrics.audit_missing.get_or_create(&shard).inc_by(report.missing);
        self.metrics.audit_doubled.get_or_create(&shard).inc_by(report.doubled);
    }
}

impl RecordRows {
    fn of(stream_seq: u64, Held { rows, positions }: Held) -> Self {
        Self {
            stream_seq,
            rows,
            positions,
        }
    }

    fn held(&self) -> Held {
        Held {
            rows: self.rows,
            positions: self.positions,
        }
    }
}

impl AddAssign for Report {
    fn add_assign(&mut self, other: Self) {
        self.records += other.records;
        self.rows += other.rows;
        self.missing += other.missing;
        self.doubled += other.doubled;
        self.left += other.left;
        self.repeated += other.repeated;
    }
}

/// Adds the events that are held elsewhere, dropped or in earlier generations: they are not missing.
fn with_others(mut found: Vec<RecordRows>, others: &[EventPosition]) -> Vec<RecordRows> {
    let mut counts: HashMap<u64, u64> = HashMap::new();
    for (seq, _) in others {
        *counts.entry(*seq).or_default() += 1;
    }
    for found in &mut found {
        let count = counts.remove(&found.stream_seq).unwrap_or(0);
        *found = RecordRows::of(found.stream_seq, found.held().with_others(count));
    }
    let only_others = |(stream_seq, count)| RecordRows::of(stream_seq, Held::default().with_others(count));
    found.extend(counts.into_iter().map(only_others));
    found
}

/// The first record with a position where `here`, in order, has another event.
fn other_record(chunk: &[Reread], here: &[StoredEvent]) -> Option<u64> {
    let is_other = |seq: u64, (idx, event): (u32, &UsageEvent)| {
        let found = here.binary_search_by_key(&(seq, idx), |row| (row.stream_seq, row.idx));
        let row = found.ok().and_then(|at| here.get(at));
        row.is_some_and(|row| row.event_id != event.event_id.0)
    };
    let mut records = chunk.iter();
    let other = records.find(|record| record.content.indexed().any(|event| is_other(record.seq, event)));
    other.map(|record| record.seq)
}

fn differences(chunk: &[Reread], found: &[RecordRows]) -> Differences {
    differences_of(
        chunk.iter().map(|record| (record.seq, record.content.events() as u64)),
        found,
    )
}

/// `expected`: the number of events of each record. Rows of other records do not count: their records were trimmed meanwhile.
fn differences_of(expected: impl IntoIterator<Item = (u64, u64)>, found: &[RecordRows]) -> Differences {
    let found: HashMap<u64, &RecordRows> = found.iter().map(|found| (found.stream_seq, found)).collect();
    let mut differences = Differences::default();
    for (seq, events) in expected {
        let difference = found
            .get(&seq)
            .map_or(Held::default(), |found| found.held())
            .difference(events);
        if difference.missing > 0 {
            differences.missing.push(seq);
            differences.missing_rows += difference.missing;
        }
        if difference.doubled > 0 {
            differences.doubled.push(seq);
            differences.doubled_rows += difference.doubled;
        }
    }
    differences.missing.sort_unstable();
    differences
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_and_doubled_rows_are_counted_separately() {
        let found = |stream_seq, rows, positions| RecordRows {
            stream_seq,
            rows,
            positions,
        };
        let stored = [
            found(1, 2, 2),
            found(2, 1, 1),
            found(3, 6, 3),
            found(4, 5, 3),
            found(9, 1, 1),
        ];
        let expected = [(1, 2), (2, 3), (3, 3), (4, 4), (5, 7), (6, 0)];
        assert_eq!(
            differences_of(expected, &stored),
            Differences {
                missing: vec![2, 4, 5],
                missing_rows: 2 + 1 + 7,
                doubled: vec![3, 4],
                doubled_rows: 3 + 2,
            }
        );
        assert_eq!(differences_of([(1, 2)], &stored), Differences::default());
    }

    #[test]
    fn dropped_events_and_those_of_earlier_generations_are_not_missing() {
        let stored = vec![RecordRows {
            stream_seq: 1,
            rows: 2,
            positions: 2,
        }];
        let found = with_others(stored, &[(1, 1), (2, 0), (2, 1)]);
        assert_eq!(differences_of([(1, 3), (2, 2)], &found), Differences::default());
        assert_eq!(differences_of([(1, 4), (2, 2)], &found).missing, [1]);
    }
}
