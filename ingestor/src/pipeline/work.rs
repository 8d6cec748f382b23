//! A shard at work, from its manifest to its rows and back: read in order, gather, drop duplicates, seal, write the manifest,
//! insert, verify.
//!
//! While one range is inserted the next gathers; the write of the manifest that completes the one carries the other.

use std::{
    future::{pending, poll_fn},
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use schema::{Manifest, RunId, manifest::Pending, names};
use service::Backoff;
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time::interval,
};
use tokio_util::sync::{CancellationToken, DropGuard, PollSemaphore};
use tracing::{info, warn};

use crate::{
    ingest::Ingest,
    manifests::Held,
    metrics,
    pipeline::{
        content::Content,
        dead_letter,
        duplicates::{Question, Remembered, SealedAt},
        range::{self, Gathering, Range, Record, Sealed},
        read_ahead::{self, Item},
        reader::{Message, Reader},
        store::{Fence, Stored, Tried},
        stored_before,
        verify::Span,
    },
    shards::own::RELEASE_WITHIN,
    stop::Stop,
};

/// How often lag is shown.
const SHOW_EVERY: Duration = Duration::from_millis(500);
/// Reading this long without trouble ends an alarm.
const CALM: Duration = Duration::from_secs(1);

/// A shard at work.
pub struct Work<'a> {
    ingest: &'a Ingest,
    shard: u16,
    held: Held,
    /// Verified through here; the manifest may be one range behind.
    done: u64,
    gathering: Gathering,
    remembered: Remembered,
}

/// Records that were cut off, while ClickHouse is asked which of their events it has.
struct Asking<'a> {
    records: Vec<Record>,
    answer: Pin<Box<dyn Future<Output = SealedAt> + Send + 'a>>,
    turn: Option<OwnedSemaphorePermit>,
}

/// A range that is being stored.
struct Storing<'a> {
    range: Arc<Range>,
    since: Instant,
    outcome: Pin<Box<dyn Future<Output = Result<Stored, Stop>> + Send + 'a>>,
    _turn: Option<OwnedSemaphorePermit>,
}

impl<'a> Work<'a> {
    pub fn new(ingest: &'a Ingest, shard: u16, held: Held) -> Self {
        Self {
            ingest,
            shard,
            done: held.manifest.done_through,
            held,
            gathering: Gathering::new(ingest.settings.batch),
            remembered: Remembered::new(
                &ingest.settings.duplicates,
                ingest.stream.shards,
                schema::clock::now_ms(),
            ),
        }
    }

    /// Finishes the range that the last owner left.
    pub async fn replay(&mut self) -> Result<(), Stop> {
        let Some(pending) = self.held.manifest.pending.clone() else {
            return Ok(());
        };
        info!(
            shard = self.shard,
            first = pending.first,
            last = pending.last,
            rows = pending.rows,
            "finishing a range"
        );
        // One at a time in this process: a whole range is held beside what the budget allows.
        let _turn = self
            .ingest
            .replays
            .acquire()
            .await
            .context("waiting for other replays")?;
        let is_there = self.ingest.store.is_there(&pending, self.span(&pending)).await?;
        let range = if is_there {
            None
        } else {
            let records = self.reread(&pending).await?;
            Some(
                Range::replayed(&pending, records)
                    .map_err(|why| Stop::Alarm(format!("the pending range cannot be replayed: {why}")))?,
            )
        };
        if let Some(range) = range {
            let mut storing = self.begin(range, Tried::Perhaps, None);
            let stored = storing.outcome.as_mut().await?;
            self.finish(&storing, stored);
        }
        self.done = pending.last;
        self.write(None).await
    }

    async fn reread(&self, pending: &Pending) -> Result<Vec<Record>, Stop> {
        let ingest = self.ingest;
        let generation = self.held.manifest.generation;
        let mut reader = Reader::new(
            ingest.stream.clone(),
            ingest.metrics.clone(),
            self.shard,
            generation,
            pending.first.saturating_sub(1),
        );
        let mut records = Vec::new();
        while let Some(message) = reader.next_until(pending.last).await? {
            let (run_id, events) = match Content::of(&message.payload) {
                Content::Events(run_id, events) => (run_id, events),
                // Kept as a dead letter before the range was sealed.
                Content::Dead(_) => (RunId::NIL, Vec::new()),
                Content::Newer(why) => return Err(Stop::Alarm(why)),
            };
            records.push(Record {
                seq: message.seq,
                run_id,
                events,
                bytes: message.payload.len() as u64,
                stored_ms: message.stored_ms,
                permit: None,
            });
        }
        Ok(records)
    }

    /// Follows the stream until told to stop. What was gathered and not sealed then stays with the stream.
    pub async fn follow(&mut self, stop: &CancellationToken) -> Result<(), Stop> {
        let (mut items, _feeding) = self.feed();
        let mut asking: Option<Asking<'a>> = None;
        let mut storing: Option<Storing<'a>> = None;
        let mut ending: Option<Stop> = None;
        let (calm_at, mut calm) = (Instant::now() + CALM, false);
        let mut show = interval(SHOW_EVERY);
        let mut overdue_at = None;
        // A shard whose turn has not come goes on gathering: the fewer inserts at once, the larger and the cheaper each.
        let mut turns = PollSemaphore::new(Arc::clone(&self.ingest.inserts));
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
                    && asking.is_none()
                    && let Some(stop) = ending.take()
                {
                    return Err(stop);
                }
            }
            let idle = storing.is_none() && asking.is_none();
            let due = idle && (ending.is_some() || self.gathering.is_due(Instant::now()));
            let due_at = self.gathering.due_at().filter(|_| idle && !due);
            tokio::select! {
                () = stop.cancelled(), if !stopping => {}
                turn = poll_fn(|cx| turns.poll_acquire(cx)), if due => {
                    let records = self.gathering.cut();
                    match self.remembered.question(&records) {
                        None => storing = self.seal(records, &SealedAt::new(), turn).await?,
                        Some(question) => asking = Some(self.ask(question, records, turn)),
                    }
                }
                answer = answered(&mut asking) => {
                    if let Some(Asking { records, turn, .. }) = asking.take() {
                        storing = self.seal(records, &answer, turn).await?;
                    }
                }
                outcome = finished(&mut storing) => {
                    let stored = outcome?;
                    if let Some(storing) = storing.take() {
                        self.finish(&storing, stored);
                    }
                    // Otherwise the next range's manifest tells it.
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
                    self.show_lag(storing.as_ref(), asking.as_ref());
                    if !calm && ending.is_none() && Instant::now() > calm_at {
                        calm = true;
                        self.ingest.alarms.clear(self.shard);
                    }
                }
            }
        }
    }

    /// A reader of its own task: what it reads is decoded while a range is inserted.
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
        let passed = Record {
            seq: message.seq,
            run_id: RunId::NIL,
            events: Vec::new(),
            bytes: 0,
            stored_ms: message.stored_ms,
            permit: None,
        };
        self.gathering.push(passed, Instant::now());
    }

    /// Until ClickHouse has answered: the stream absorbs.
    fn ask(&self, question: Question, records: Vec<Record>, turn: Option<OwnedSemaphorePermit>) -> Asking<'a> {
        let (ingest, shard, generation) = (self.ingest, self.shard, self.held.manifest.generation);
        let answer = Box::pin(async move {
            let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
            loop {
                match stored_before::ask(&ingest.store.verifier, generation, shard, &question).await {
                    Ok(stored) => {
                        let asked = ingest.metrics.ids_asked.get_or_create(&metrics::Shard { shard });
                        asked.inc_by(question.ids.len() as u64);
                        ingest.store.health.up("clickhouse");
                        return stored;
                    }
                    Err(trouble) => {
                        ingest.store.health.down("clickhouse", format!("{trouble:#}"));
                        let delay = backoff.next_delay();
                        warn!(shard, "ClickHouse: {trouble:#}: asking again in {delay:.1?}");
                        tokio::time::sleep(delay).await;
                    }
                }
            }
        });
        Asking { records, answer, turn }
    }

    /// Seals records that were cut off, less what was `stored` before, and writes that down, together with what is done; then
    /// begins to store it.
    async fn seal(
        &mut self,
        mut records: Vec<Record>,
        stored: &SealedAt,
        turn: Option<OwnedSemaphorePermit>,
    ) -> Result<Option<Storing<'a>>, Stop> {
        let now_ms = schema::clock::now_ms();
        let (dropped, taken) = self.remembered.dropped(&records, stored);
        let rest = records.split_off(taken);
        if !rest.is_empty() {
            self.gathering.put_back(rest, Instant::now());
        }
        match range::seal(records, dropped, now_ms) {
            None => Ok(None),
            Some(Sealed::Empty(last)) => {
                self.done = last;
                self.write(None).await?;
                Ok(None)
            }
            Some(Sealed::Range(range)) => {
                self.write(Some(range.pending.clone())).await?;
                // Not before: an event whose range was not written down would be a duplicate of itself.
                self.remembered.sealed(range.kept(), now_ms);
                Ok(Some(self.begin(range, Tried::Never, turn)))
            }
        }
    }

    fn begin(&self, range: Range, tried: Tried, turn: Option<OwnedSemaphorePermit>) -> Storing<'a> {
        let (ingest, shard, revision, written_at) = (self.ingest, self.shard, self.held.revision, self.held.at);
        let range = Arc::new(range);
        let span = self.span(&range.pending);
        let token = range.pending.token(names::USAGE_STREAM, span.generation, shard);
        let of_task = Arc::clone(&range);
        let outcome = Box::pin(async move {
            let fence = Fence::new(&ingest.manifests, shard, revision, written_at);
            ingest.store.store(&of_task, span, &token, tried, fence).await
        });
        Storing {
            range,
            since: Instant::now(),
            outcome,
            _turn: turn,
        }
    }

    fn finish(&mut self, storing: &Storing<'_>, stored: Stored) {
        let (metrics, shard) = (&self.ingest.metrics, metrics::Shard { shard: self.shard });
        let pending = &storing.range.pending;
        self.done = pending.last;
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

    /// Writes how far the shard is done, and what is next.
    async fn write(&mut self, pending: Option<Pending>) -> Result<(), Stop> {
        let next = Manifest {
            done_through: self.done,
            pending,
            ..self.held.manifest.clone()
        };
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

    fn show_lag(&self, storing: Option<&Storing<'_>>, asking: Option<&Asking<'_>>) {
        let (metrics, shard) = (&self.ingest.metrics, metrics::Shard { shard: self.shard });
        let asked = asking.map_or(&[] as &[Record], |asking| &asking.records);
        let in_hand = self.gathering.len() + asked.len() + storing.map_or(0, |storing| storing.range.records());
        let oldest = storing
            .and_then(|storing| storing.range.oldest_ms())
            .or(asked.first().map(|record| record.stored_ms))
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

async fn answered(asking: &mut Option<Asking<'_>>) -> SealedAt {
    match asking {
        Some(asking) => asking.answer.as_mut().await,
        None => pending().await,
    }
}

async fn finished(storing: &mut Option<Storing<'_>>) -> Result<Stored, Stop> {
    match storing {
        Some(storing) => storing.outcome.as_mut().await,
        None => pending().await,
    }
}
