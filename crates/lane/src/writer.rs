//! Publishes a lane's messages one at a time, each until its outcome is known.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::Result;
use bytes::Bytes;
use protocol::lane::{AttemptOutcome, Lane, LastRecord, Message, MessageOutcome, Next};
use schema::{BatchId, lane_record::BatchBuilder};
use service::Backoff;
use tokio::time::sleep;
use tracing::debug;

use crate::{context::LaneContext, subject::LaneSubject};

pub(crate) struct Writer {
    pub lane: Lane,
    subject: LaneSubject,
    context: LaneContext,
    /// Set by other tasks while a message is in flight: the message is acknowledged now.
    kept: Arc<AtomicBool>,
}

impl Writer {
    pub(crate) fn new(lane: Lane, subject: LaneSubject, context: LaneContext) -> Self {
        Self {
            lane,
            subject,
            context,
            kept: Arc::default(),
        }
    }

    /// The flag that acknowledges the message in flight: see [`Lane::keep`].
    pub(crate) fn kept(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.kept)
    }

    /// Tries until the outcome is known. `empty` is the batch id of an empty batch that may replace the message.
    pub(crate) async fn write(mut self, message: Message, empty: BatchId, record: Bytes) -> (Self, MessageOutcome) {
        self.kept.store(false, Relaxed);
        let first = self.lane.begin(message, empty);
        let outcome = self.publish_until_done(first, message, record).await;
        (self, outcome)
    }

    /// Tries until the batch is stored, or the lane has ended. `empty`: see [`Lane::begin_kept`].
    pub(crate) async fn store(&mut self, batch: BatchId, empty: BatchId, record: Bytes) {
        while self.lane.end().is_none() {
            let first = self.lane.begin_kept(batch, empty);
            if self
                .publish_until_done(first, Message::Batch(batch), record.clone())
                .await
                == MessageOutcome::Stored
            {
                return;
            }
        }
    }

    async fn publish_until_done(&mut self, first: Next, message: Message, record: Bytes) -> MessageOutcome {
        let mut pauses = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));
        let mut attempts = 0u32;
        let mut next = first;
        loop {
            next = match next {
                Next::Publish {
                    message: sent,
                    expected,
                } => {
                    if attempts > 0 {
                        sleep(pauses.next_delay()).await;
                    }
                    attempts += 1;
                    let record = match sent {
                        Message::Batch(batch) if sent != message => {
                            BatchBuilder::new(batch).finish(self.context.run).into()
                        }
                        _ => record.clone(),
                    };
                    let outcome = self.attempt(expected, record).await;
                    self.count(outcome, attempts);
                    if self.kept.load(Relaxed) {
                        self.lane.keep();
                    }
                    self.lane.attempted(outcome)
                }
                Next::Read => match self.last_record().await {
                    Ok(record) => self.lane.read(record),
                    Err(failure) => {
                        debug!("reading a lane's last record: {failure:#}");
                        sleep(pauses.next_delay()).await;
                        Next::Read
                    }
                },
                Next::Done(outcome) => return outcome,
            }
        }
    }

    async fn attempt(&self, expected: u64, record: Bytes) -> AttemptOutcome {
        let (link, limits) = (&self.context.link, &self.context.limits);
        // Do not send without a connection. The client would keep the message and send it later, when it is no longer
        // wanted.
        if !link.is_up() && !link.is_up_within(limits.stuck_after).await {
            return AttemptOutcome::Refused;
        }
        tokio::select! {
            outcome = self.subject.publish(expected, record, limits.attempt_timeout) => outcome,
            () = link.lost() => AttemptOutcome::Unclear,
        }
    }

    async fn last_record(&self) -> Result<LastRecord> {
        let (link, limits) = (&self.context.link, &self.context.limits);
        if !link.is_up_within(limits.attempt_timeout).await {
            anyhow::bail!("not connected");
        }
        self.subject.last_record(limits.attempt_timeout).await
    }

    fn count(&self, outcome: AttemptOutcome, attempt: u32) {
        let metrics = &self.context.metrics;
        metrics.attempts.inc();
        match outcome {
            AttemptOutcome::Stored { .. } => {}
            AttemptOutcome::Unclear => {
                metrics.unclear.inc();
                debug!(run.id = %self.context.run, attempt, "a publish has an unknown outcome: reading the lane's last record");
            }
            AttemptOutcome::Refused => {
                metrics.refused.inc();
            }
            AttemptOutcome::WrongLast => {
                metrics.wrong_last.inc();
            }
        }
    }
}
