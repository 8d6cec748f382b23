//! Compares the stream with ClickHouse, record by record. Each range was verified when it was stored. The audit finds problems
//! that this check cannot find: rows of an ingestor that was paused between its check and its insert, rows that ClickHouse lost
//! since, and unknown faults. It removes doubled rows. Missing rows are stored by the owner of the shard
//! ([`super::catch_up`]).
//!
//! A row of an earlier generation counts, so an audit stores no event again. If the stream is not the one that was stored, the
//! audit fails and stores nothing. Events that two generations stored are reported, not repaired. Events of closed days are not
//! missing: retention may have deleted their rows.

use std::{
    ops::AddAssign,
    time::{Duration, Instant},
};

use anyhow::Result;
use protocol::{
    audit::bill_day,
    claim::{self, Beginning},
    range::EventPosition,
};
use schema::{clock, names};
use time::OffsetDateTime;
use tracing::error;

use crate::{
    config::DuplicateSettings,
    manifests::Manifests,
    metrics::{Metrics, Shard},
    pipeline::{
        continuity,
        fence::Fence,
        reader::Reader,
        sink::Sink,
        verify::{Span, Verifier, bind, within},
    },
    stop::Stop,
    stream::UsageStream,
    upkeep::{
        difference::{Differences, RecordRows, differences, differences_of, other_record, with_others},
        earlier,
        repair::Repair,
        repeated,
        reread::{self, Reread},
    },
};

/// A range may have been sealed so long before the stream stored its records, because the clocks of two machines differ.
const SEALED_BEFORE_MS: i64 = 24 * 3_600 * 1_000;

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
    /// Rows that were missing.
    pub missing: u64,
    /// The first record with missing rows.
    pub missing_from: Option<u64>,
    /// Rows that were doubled.
    pub doubled: u64,
    /// Rows that are still wrong.
    pub left: u64,
    /// Rows that repeat an event of another generation.
    pub repeated: u64,
}

impl Audit {
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
    pub async fn compare(&self, shard: u16, since: Option<OffsetDateTime>) -> Result<Report, Stop> {
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
        self.records(reader, manifest.generation, shard, manifest.done_through, None)
            .await
    }

    /// Compares the records up to and including `last` with their rows of this generation and earlier ones. Removes doubled
    /// rows. With `owned`, which says that the caller owns the shard, it also stores missing rows.
    pub async fn records(
        &self,
        mut reader: Reader,
        generation: u32,
        shard: u16,
        last: u64,
        mut owned: Option<&mut Fence<'_>>,
    ) -> Result<Report, Stop> {
        let mut report = Report::default();
        loop {
            let chunk = reread::next(&mut reader, last).await?;
            if chunk.is_empty() {
                return Ok(report);
            }
            report += self.chunk(generation, shard, chunk, owned.as_deref_mut()).await?;
        }
    }

    /// Compares the records up to and including `last`, from the first one in the stream on, for about `limit` at most. Returns
    /// the sequence through which ClickHouse has all rows.
    pub async fn whole_through(
        &self,
        generation: u32,
        shard: u16,
        last: u64,
        limit: Duration,
    ) -> Result<(u64, Report), Stop> {
        let (began, mut through, mut report) = (Instant::now(), 0, Report::default());
        let mut reader = self.reader(shard, generation, 0);
        while began.elapsed() < limit {
            let chunk = reread::next(&mut reader, last).await?;
            let Some(end) = chunk.last().map(|record| record.seq) else {
                return Ok((last, report));
            };
            report += self.chunk(generation, shard, chunk, None).await?;
            if let Some(missing) = report.missing_from {
                return Ok((missing - 1, report));
            }
            through = end;
        }
        Ok((through, report))
    }

    /// Reads a shard after the record `after`. `generation`: the one that the stream has.
    pub fn reader(&self, shard: u16, generation: u32, after: u64) -> Reader {
        Reader::new(self.stream.clone(), self.metrics.clone(), shard, generation, after)
    }

    async fn chunk(
        &self,
        generation: u32,
        shard: u16,
        chunk: Vec<Reread>,
        owned: Option<&mut Fence<'_>>,
    ) -> Result<Report, Stop> {
        let span = Span {
            generation,
            shard,
            first: chunk.first().map_or(0, |record| record.seq),
            last: chunk.last().map_or(0, |record| record.seq),
        };
        let since = chunk.iter().map(|record| record.stored_ms).min().unwrap_or(0) - SEALED_BEFORE_MS;
        let mut rows = self.rows(span, since).await?;
        let mut found = differences(&chunk, &rows);
        let mut elsewhere = Vec::new();
        if !found.missing.is_empty() {
            // The time only saves work. It must not make a row look missing.
            rows = self.rows(span, 0).await?;
            found = differences(&chunk, &rows);
        }
        if !found.missing.is_empty() {
            elsewhere = self.elsewhere(span, &chunk, &found.missing, &rows).await?;
            found = differences(&chunk, &with_others(rows, &elsewhere));
        }
        let mut report = Report {
            records: chunk.len() as u64,
            rows: chunk.iter().map(|record| record.content.events() as u64).sum(),
            missing: found.missing_rows,
            missing_from: found.missing.first().copied(),
            doubled: found.doubled_rows,
            ..Report::default()
        };
        self.metrics
            .audited
            .get_or_create(&Shard { shard })
            .inc_by(report.records);
        if found == Differences::default() {
            return Ok(report);
        }
        error!(
            shard,
            first = span.first,
            last = span.last,
            missing = found.missing_rows,
            doubled = found.doubled_rows,
            "stored ranges differ from the stream"
        );
        let expected: Vec<(u64, u64)> = chunk
            .iter()
            .map(|record| (record.seq, record.content.events() as u64))
            .collect();
        let is_stored = owned.is_some();
        self.repair(span, chunk, &found, &elsewhere, owned).await?;
        let after = differences_of(expected, &with_others(self.rows(span, 0).await?, &elsewhere));
        report.left = after.missing_rows + after.doubled_rows;
        let (shard_of, removed) = (Shard { shard }, found.doubled_rows.saturating_sub(after.doubled_rows));
        self.metrics.audit_doubled.get_or_create(&shard_of).inc_by(removed);
        let stored = found.missing_rows.saturating_sub(after.missing_rows);
        self.metrics.audit_missing.get_or_create(&shard_of).inc_by(stored);
        if is_stored && report.left > 0 {
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

    async fn repair(
        &self,
        span: Span,
        chunk: Vec<Reread>,
        found: &Differences,
        elsewhere: &[EventPosition],
        owned: Option<&mut Fence<'_>>,
    ) -> Result<(), Stop> {
        let repair = Repair {
            verifier: &self.verifier,
            sink: &self.sink,
            stream: names::USAGE_STREAM,
            span,
            duplicates: &self.duplicates,
        };
        repair.remove_doubled(&found.doubled).await?;
        let Some(fence) = owned else { return Ok(()) };
        let is_missing = |record: &Reread| found.missing.binary_search(&record.seq).is_ok();
        let missing = chunk.into_iter().filter(is_missing).collect();
        repair.store_missing(missing, elsewhere, fence).await
    }

    /// The positions of these records that need no row in this generation: an earlier generation holds them, or their day is
    /// closed. Fails if a row of this generation has another event than the record at its position.
    async fn elsewhere(
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
        let records = || chunk.iter().filter(|record| seqs.binary_search(&record.seq).is_ok());
        let mut elsewhere = earlier::positions(&self.verifier, span, records(), &here).await?;
        let open_from = self.verifier.open_from().await?;
        let has_row = |at: (u64, u32)| here.binary_search_by_key(&at, |row| (row.stream_seq, row.idx)).is_ok();
        for record in records() {
            for (idx, event) in record.content.indexed() {
                let at = (record.seq, idx);
                if bill_day(event.time_ms, record.stored_ms) < open_from && !has_row(at) {
                    elsewhere.push(at);
                }
            }
        }
        elsewhere.sort_unstable();
        elsewhere.dedup();
        Ok(elsewhere)
    }

    /// The rows of a span that were sealed at `since_ms` or later. ClickHouse does not read older parts.
    async fn rows(&self, span: Span, since_ms: i64) -> Result<Vec<RecordRows>> {
        let sql = "select stream_seq, count() as rows, uniqExact(idx) as positions from usage_events \
                   where generation = ? and shard = ? and stream_seq between ? and ? \
                       and ingested_at >= fromUnixTimestamp64Milli(toInt64(?)) group by stream_seq";
        let query = bind(self.verifier.client().query(sql), span).bind(since_ms.max(0));
        let found = within("counting rows by record", query.fetch_all::<RecordRows>()).await?;
        let dropped = self.verifier.dropped(span).await?;
        let dropped: Vec<EventPosition> = dropped.iter().map(|row| (row.stream_seq, row.idx)).collect();
        Ok(with_others(found, &dropped))
    }
}

impl AddAssign for Report {
    fn add_assign(&mut self, other: Self) {
        self.records += other.records;
        self.rows += other.rows;
        self.missing += other.missing;
        self.missing_from = self.missing_from.into_iter().chain(other.missing_from).min();
        self.doubled += other.doubled;
        self.left += other.left;
        self.repeated += other.repeated;
    }
}
