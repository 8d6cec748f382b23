//! Work on one shard: reads records in order, gathers them, drops duplicates, seals a range, writes the manifest, inserts the
//! range and verifies it.
//!
//! While one range is inserted, the next one gathers. One write of the manifest completes the old range and carries the new.

mod looking_up;
mod replay;

use std::{
    future::{pending, poll_fn},
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::anyhow;
use protocol::{
    duplicates::{Remembered, SealedAt},
    range::{cut, progress},
    storing::Tried,
};
use schema::{
    RunId,
    manifest::{Pending, StoredRange},
    names,
};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time::interval,
};
use tokio_util::sync::{CancellationToken, DropGuard, PollSemaphore};

use self::looking_up::{LookingUp, answered};
use super::{
    dead_letter,
    fence::Fence,
    gathering::Gathering,
    range::{Range, Sealed, seal},
    read_ahead::{self, Item},
    reader::{Message, Reader},
    record::{Record, has_key, keyed},
    store::Stored,
    verify::Span,
};
use crate::{ingest::Ingest, manifests::Held, metrics, stop::Stop};

/// When a shard is given up, its running insert may still take this long. Its manifest stays, so the next owner finishes the
/// range.
pub const RELEASE_WITHIN: Duration = Duration::from_secs(10);
/// How often the lag metric is updated.
const SHOW_EVERY: Duration = Duration::from_millis(500);
/// An alarm ends when the shard was read without errors for this long.
const CALM: Duration = Duration::from_secs(1);

pub struct Work<'a> {
    ingest: &'a Ingest,
    shard: u16,
    held: Held,
    /// Verified through this sequence. The manifest may be one range behind.
    done: u64,
    /// The newest verified range with rows.
    newest: Option<StoredRange>,
    gathering: Gathering,
    remembered: Remembered,
}

/// A range that is being stored.
struct Storing<'a> {
    range: Arc<Range>,
    since: Instant,
    outcome: Pin<Box<dyn Future<Output = Result<Stored, Stop>> + Send + 'a>>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl<'a> Work<'a> {
    pub fn new(ingest: &'a Ingest, shard: u16, held: Held) -> Self {
        let duplicates = &ingest.settings.duplicates;
        // An ingestor may own all shards, so each gets its part of the memory.
        let ids_max = duplicates.idempotency_keys_max / usize::from(ingest.stream.shards.max(1));
        Self {
            ingest,
            shard,
            done: held.manifest.done_through,
            newest: held.manifest.newest.clone(),
            held,
            gathering: Gathering::new(ingest.settings.batch),
            remembered: Remembered::new(duplicates.idempotency_window, ids_max, schema::clock::now_ms()),
        }
    }

    /// Follows the stream until `stop` is cancelled. Records that are not sealed by then stay in the stream.
    pub async fn follow(&mut self, stop: &CancellationToken) -> Result<(), Stop> {
        let (mut items, _feeding) = self.feed();
        let mut looking_up: Option<LookingUp<'a>> = None;
        let mut storing: Option<Storing<'a>> = None;
        let mut ending: Option<Stop> = None;
        let (calm_at, mut calm) = (Instant::now() + CALM, false);
        let mut show = interval(SHOW_EVERY);
        let mut overdue_at = None;
        // A shard without a permit keeps gathering: fewer concurrent inserts are larger and cheaper.
        let mut permits = PollSemaphore::new(Arc::clone(&self.ingest.inserts));
        loop {
            let stopping = stop.is_cancelled();
            if stopping && Instant::now() > *overdue_at.get_or_insert_with(|| Instant::now() + RELEASE_WITHIN) {
                return Ok(());
            }
            if storing.is_none() {
                if stopping {
                    return self.write(None).await;
                }
                if self.gathering.is_empty()
                    && looking_up.is_none()
                    && let Some(stop) = ending.take()
                {
                    return Err(stop);
                }
            }
            let idle = storing.is_none() && looking_up.is_none();
            let due = idle && (ending.is_some() || self.gathering.is_due(Instant::now()));
            let due_at = self.gathering.due_at().filter(|_| idle && !due);
            tokio::select! {
                () = stop.cancelled(), if !stopping => {}
                permit = poll_fn(|cx| permits.poll_acquire(cx)), if due => {
                    let records = self.gathering.cut();
                    let first = records.first().map_or(0, |record| record.seq);
                    match self.remembered.question(first, keyed(&records)) {
                        None => storing = self.seal(records, &SealedAt::new(), permit).await?,
                        Some(question) => {
                            let generation = self.held.manifest.generation;
                            let lookup = LookingUp::start(self.ingest, generation, self.shard, question, records, permit);
                            looking_up = Some(lookup);
                        }
                    }
                }
                stored = answered(&mut looking_up) => {
                    if let Some(LookingUp { records, permit, .. }) = looking_up.take() {
                        storing = self.seal(records, &stored, permit).await?;
                    }
                }
                outcome = finished(&mut storing) => {
                    let stored = outcome?;
                    if let Some(storing) = storing.take() {
                        self.finish(&storing, stored);
                    }
                    // Otherwise the manifest of the next range carries it.
                    if self.gathering.is_empty() {
                        self.write(None).await?;
                    }
                }
                item = items.recv(), if ending.is_none() && !stopping && !self.gathering.is_full() => match item {
                    Some(Item::Record(record)) => self.gathering.push(record, Instant::now()),
                    Some(Item::Dead(message, why)) => tokio::select! {
                        () = self.bury(&message, &why) => {}
                        () = stop.cancelled() => {}
                    },
                    Some(Item::End(stop)) => ending = Some(stop),
                    None => ending = Some(anyhow!("the reader ended").into()),
                },
                () = tokio::time::sleep_until(due_at.unwrap_or(calm_at).into()), if due_at.is_some() => {}
                _ = show.tick() => {
                    self.show_lag(storing.as_ref(), looking_up.as_ref());
                    if let Some(from) = self.ingest.owned.take_behind(self.shard) {
                        return Err(Stop::Behind(from));
                    }
                    if !calm && ending.is_none() && Instant::now() > calm_at {
                        calm = true;
                        self.ingest.alarms.clear(self.shard);
                    }
                }
            }
        }
    }

    /// Starts the reader as a task of its own, so that records are decoded while a range is inserted.
    fn feed(&self) -> (mpsc::Receiver<Item>, DropGuard) {
        let reader = Reader::new(
            self.ingest.stream.clone(),
            self.ingest.metrics.clone(),
            self.shard,
            self.held.manifest.generation,
            self.done,
        );
        read_ahead::start(self.ingest, reader, self.shard)
    }

    async fn bury(&mut self, message: &Message, why: &str) {
        let shard = metrics::Shard { shard: self.shard };
        dead_letter::bury(
            &self.ingest.stream.context,
            self.held.manifest.generation,
            self.shard,
            message,
            why,
        )
        .await;
        self.ingest.metrics.dead_letters.get_or_create(&shard).inc();
        let empty = Record {
            seq: message.seq,
            run_id: RunId::NIL,
            events: Vec::new(),
            bytes: 0,
            stored_ms: message.stored_ms,
            permit: None,
        };
        self.gathering.push(empty, Instant::now());
    }

    /// Seals records that were cut, without the events that were `stored` before. Writes the manifest with the range and the
    /// progress so far, then starts to store the range.
    async fn seal(
        &mut self,
        mut records: Vec<Record>,
        stored: &SealedAt,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Result<Option<Storing<'a>>, Stop> {
        let now_ms = schema::clock::now_ms();
        let mut dropped = self.remembered.dropped(keyed(&records), stored);
        let rest = records.split_off(cut(&records, |record| record.seq, &mut dropped));
        if !rest.is_empty() {
            self.gathering.put_back(rest, Instant::now());
        }
        match seal(records, dropped, now_ms) {
            None => Ok(None),
            Some(Sealed::Empty(last)) => {
                self.done = last;
                self.write(None).await?;
                Ok(None)
            }
            Some(Sealed::Range(range)) => {
                self.write(Some(range.pending.clone())).await?;
                // Not earlier: an event whose range is in no manifest would become a duplicate of itself.
                let kept = range.events().filter(|(.., event)| has_key(event));
                self.remembered.sealed(kept.map(|(.., event)| event.event_id), now_ms);
                Ok(Some(self.begin(range, Tried::Never, permit)))
            }
        }
    }

    fn begin(&self, range: Range, tried: Tried, permit: Option<OwnedSemaphorePermit>) -> Storing<'a> {
        let (ingest, shard, revision, written_at) = (self.ingest, self.shard, self.held.revision, self.held.at);
        let range = Arc::new(range);
        let span = self.span(&range.pending);
        let token = range.pending.token(names::USAGE_STREAM, span.generation, shard);
        let (of_task, before) = (Arc::clone(&range), self.newest.clone());
        let outcome = Box::pin(async move {
            let fence = Fence::new(&ingest.manifests, shard, revision, written_at);
            let stored = ingest.store.store(&of_task, span, &token, tried, fence).await?;
            // After the insert: a table that was restored from a backup in between lacks the range before this one.
            if let Some(before) = before {
                ingest.store.still_has(span, &before).await?;
            }
            Ok(stored)
        });
        Storing {
            range,
            since: Instant::now(),
            outcome,
            _permit: permit,
        }
    }

    fn finish(&mut self, storing: &Storing<'_>, stored: Stored) {
        let (metrics, shard) = (&self.ingest.metrics, metrics::Shard { shard: self.shard });
        let pending = &storing.range.pending;
        self.done = pending.last;
        if pending.rows > 0 {
            self.newest = Some(StoredRange {
                first: pending.first,
                last: pending.last,
                rows: pending.rows,
                sealed_at_ms: pending.sealed_at_ms,
            });
        }
        metrics.rows.get_or_create(&shard).inc_by(pending.rows);
        let dropped = pending.dropped.len() as u64;
        metrics.duplicates.get_or_create(&shard).inc_by(dropped);
        metrics.batches.get_or_create(&shard).inc();
        metrics.batch_rows.observe(pending.rows as f64);
        metrics.insert_seconds.observe(storing.since.elapsed().as_secs_f64());
        if stored == Stored::Doubled {
            self.ingest.audit_soon.notify_one();
        }
    }

    /// Writes the progress of the shard, and the next range.
    async fn write(&mut self, pending: Option<Pending>) -> Result<(), Stop> {
        let mut next = progress(&self.held.manifest, self.done, pending);
        next.newest = self.newest.clone();
        if next != self.held.manifest {
            self.held = self
                .ingest
                .manifests
                .write(self.shard, next, self.held.revision)
                .await?;
        }
        self.ingest.owned.done(self.shard, self.done);
        let shard = metrics::Shard { shard: self.shard };
        self.ingest
            .metrics
            .done_through
            .get_or_create(&shard)
            .set(self.done.cast_signed());
        Ok(())
    }

    fn span(&self, pending: &Pending) -> Span {
        Span {
            generation: self.held.manifest.generation,
            shard: self.shard,
            first: pending.first,
            last: pending.last,
        }
    }

    fn show_lag(&self, storing: Option<&Storing<'_>>, looking_up: Option<&LookingUp<'_>>) {
        let (metrics, shard) = (&self.ingest.metrics, metrics::Shard { shard: self.shard });
        let cut = looking_up.map_or(&[] as &[Record], |looking_up| &looking_up.records);
        let in_hand = self.gathering.len() + cut.len() + storing.map_or(0, |storing| storing.range.records());
        let oldest = storing
            .and_then(|storing| storing.range.oldest_ms())
            .or(cut.first().map(|record| record.stored_ms))
            .or(self.gathering.oldest_ms());
        metrics
            .in_hand
            .get_or_create(&shard)
            .set(in_hand.try_into().unwrap_or(i64::MAX));
        metrics
            .lag_ms
            .get_or_create(&shard)
            .set(oldest.map_or(0, |oldest| schema::clock::now_ms() - oldest));
    }
}

async fn finished(storing: &mut Option<Storing<'_>>) -> Result<Stored, Stop> {
    match storing {
        Some(storing) => storing.outcome.as_mut().await,
        None => pending().await,
    }
}
