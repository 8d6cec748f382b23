//! Runs one lane. It gathers waiting entries while a message is in flight, sends them, settles them, and ends the lane. It
//! ends when all senders are gone (then it closes the lane) or when the run is fenced.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use futures_util::future::{MaybeDone, maybe_done};
use protocol::lane::{End, Lane, Message, MessageOutcome};
use schema::{BatchId, LaneRecord};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};
use tracing::{debug, error, warn};

pub use crate::context::{LaneContext, LaneLimits};
use crate::{
    gathered::{Entry, Gathered},
    outgoing::{PublishOutcome, Units},
    publisher::Gate,
    spool::{LaneSpool, SpoolError, frame::Batch, log::AppendError},
    spooled,
    subject::LaneSubject,
    waiting::Waiting,
    writer::Writer,
};

/// After this time without a connection, NATS counts as unavailable and the lane uses the spool. It is shorter than a delay
/// that a request notices, and longer than most reconnects.
const AWAY_AFTER: Duration = Duration::from_millis(250);
/// When the spool refuses a message in flight, the lane asks it again after this time.
const ASK_SPOOL_AGAIN: Duration = Duration::from_millis(500);

pub struct LaneTask<U> {
    shard: u16,
    writer: Writer,
    waiting: Waiting<U>,
    spool: Option<LaneSpool>,
    context: LaneContext,
}

/// A batch and the waiters for its outcome.
struct Sent<U: Units> {
    gathered: Gathered<U>,
    started: Instant,
    /// A write to the spool failed, and it is unknown whether the batch is there.
    may_be_spooled: bool,
}

impl<U: Units> LaneTask<U> {
    /// Opens the lane. Tries until it is open. `None`: it was fenced first.
    pub async fn open(
        context: LaneContext,
        subject: LaneSubject,
        shard: u16,
        gate: Arc<Gate>,
        queue: mpsc::Receiver<Entry<U>>,
    ) -> Option<Self> {
        let writer = Writer::new(Lane::new(), subject, context.clone());
        let open = LaneRecord::open(context.run).encode().into();
        let (writer, outcome) = writer.write(Message::Open, BatchId::new(), open).await;
        let waiting = Waiting::new(gate, queue);
        if outcome == MessageOutcome::Stored {
            waiting.gate.open();
            return Some(Self {
                shard,
                writer,
                waiting,
                spool: None,
                context,
            });
        }
        report_end(&context, shard, &writer.lane, &waiting.gate);
        None
    }

    /// Gives the lane a spool for the batches that arrive while NATS is unavailable.
    pub fn with_spool(mut self, spool: LaneSpool) -> Self {
        self.waiting.gate.set_room(spool.spool.shared_room());
        self.spool = Some(spool);
        self
    }

    /// Runs until the lane ends.
    pub async fn run(self) -> End {
        let Self {
            shard,
            mut writer,
            mut waiting,
            mut spool,
            context,
        } = self;
        let fenced = context.fenced.clone();
        while !fenced.is_cancelled() {
            match fenced.run_until_cancelled(waiting.gather(context.limits.batch)).await {
                Some(Some(gathered)) => {
                    writer = publish(&context, writer, &mut waiting, spool.as_mut(), gathered).await
                }
                Some(None) => {
                    let close = LaneRecord::close(context.run).encode().into();
                    (writer, _) = writer.write(Message::Close, BatchId::new(), close).await;
                    break;
                }
                None => break,
            }
            if writer.lane.end().is_some() {
                break;
            }
        }
        let end = report_end(&context, shard, &writer.lane, &waiting.gate);
        waiting.refuse_until_the_end(context.run).await;
        end
    }
}

async fn publish<U: Units>(
    context: &LaneContext,
    writer: Writer,
    waiting: &mut Waiting<U>,
    spool: Option<&mut LaneSpool>,
    gathered: Gathered<U>,
) -> Writer {
    let limits = &context.limits;
    let (batch, empty) = (BatchId::new(), BatchId::new());
    let record = gathered.encode(batch, context.run);
    let sent = Sent {
        gathered,
        started: Instant::now(),
        may_be_spooled: false,
    };
    let (expected, kept) = (writer.lane.last().0, writer.kept());
    let mut writing = pin!(maybe_done(writer.write(Message::Batch(batch), empty, record.clone())));
    let is_away = async {
        match &spool {
            Some(_) => tokio::select! {
                () = context.link.is_down_for(AWAY_AFTER) => {}
                () = awake_for(limits.stuck_after) => {}
            },
            None => awake_for(limits.stuck_after).await,
        }
    };
    tokio::select! {
        biased;
        () = &mut writing => {
            let (writer, outcome) = finished(writing);
            sent.settle(context, &writer.lane, outcome);
            writer
        }
        () = is_away => match spool {
            None => {
                context.metrics.stuck.inc();
                refuse_until_outcome(context, writing, waiting, sent).await
            }
            Some(spool) => {
                let spooled = Batch { shard: spool.shard, id: batch, empty, expected, record };
                let (sent, release) = match spool_or_wait(context, writing.as_mut(), waiting, spool, sent, &spooled).await {
                    (sent, Some(release)) => (sent, release),
                    (sent, None) => {
                        let (writer, outcome) = finished(writing);
                        sent.settle(context, &writer.lane, outcome);
                        return writer;
                    }
                };
                // Set this first. The waiters get "stored", so nothing may replace this message any more.
                kept.store(true, Relaxed);
                sent.gathered.settle(PublishOutcome::Stored);
                waiting.gate.spooled(true);
                let writer = spooled::until_released(context, writing, batch, waiting, spool, release).await;
                waiting.gate.spooled(false);
                writer
            }
        },
    }
}

/// Waits for `wait`. A wait that took much longer shows that this process was stopped. Then the message is not known to be
/// stuck, and the wait starts again. Otherwise a gateway that was stopped and fenced meanwhile would refuse its queued
/// entries just before it finds the fence and the next run can take them.
async fn awake_for(wait: Duration) {
    loop {
        let began = Instant::now();
        sleep(wait).await;
        if began.elapsed() < wait * 2 {
            return;
        }
    }
}

/// Without a spool, the entries behind this message were not sent. They are refused at once.
async fn refuse_until_outcome<U: Units>(
    context: &LaneContext,
    mut writing: Pin<&mut MaybeDone<impl Future<Output = (Writer, MessageOutcome)>>>,
    waiting: &mut Waiting<U>,
    mut sent: Sent<U>,
) -> Writer {
    waiting.gate.close();
    let deadline = sent.started + context.limits.outcome_deadline;
    tokio::select! {
        () = &mut writing => {}
        () = waiting.refuse_while_stuck(&mut sent.gathered, deadline) => unreachable!("it never ends"),
    }
    waiting.gate.open();
    let (writer, outcome) = finished(writing);
    sent.settle(context, &writer.lane, outcome);
    writer
}

/// Waits until the message is in the spool, and returns the number of the release that ends spooling; or until the message
/// has an outcome. While the spool accepts nothing, the entries behind the message are refused.
async fn spool_or_wait<U: Units>(
    context: &LaneContext,
    mut writing: Pin<&mut MaybeDone<impl Future<Output = (Writer, MessageOutcome)>>>,
    waiting: &mut Waiting<U>,
    spool: &LaneSpool,
    mut sent: Sent<U>,
    batch: &Batch,
) -> (Sent<U>, Option<u64>) {
    let deadline = sent.started + context.limits.outcome_deadline;
    let mut is_known = false;
    loop {
        let mut appending = pin!(spool.spool.append(batch.clone(), true));
        let appended = loop {
            tokio::select! {
                biased;
                appended = &mut appending => break appended,
                () = &mut writing, if !is_known => is_known = true,
                () = sleep_until(deadline) => {
                    sent.gathered.stop_waiting();
                    // Never abort an append: a batch in the log is published.
                    break appending.await;
                }
            }
        };
        match appended {
            Ok(release) => {
                waiting.gate.open();
                // If the lane has ended meanwhile, the lane decides the outcome: the spool cannot add to it.
                let has_ended = (writing.as_mut().output_mut()).is_some_and(|(writer, _)| writer.lane.end().is_some());
                return (sent, (!has_ended).then_some(release));
            }
            Err(SpoolError::Failed(AppendError::Unknown(_))) => sent.may_be_spooled = true,
            Err(failure) => debug!(run.id = %context.run, shard = spool.shard, "not spooled: {failure}"),
        }
        if !is_known {
            context.metrics.stuck.inc();
            waiting.gate.close();
            tokio::select! {
                () = &mut writing => is_known = true,
                () = sleep(ASK_SPOOL_AGAIN) => {}
                () = waiting.refuse_while_stuck(&mut sent.gathered, deadline) => unreachable!("it never ends"),
            }
        }
        if is_known {
            waiting.gate.open();
            return (sent, None);
        }
    }
}

fn finished(writing: Pin<&mut MaybeDone<impl Future<Output = (Writer, MessageOutcome)>>>) -> (Writer, MessageOutcome) {
    writing.take_output().expect("it is taken once, when it is done")
}

impl<U: Units> Sent<U> {
    fn settle(self, context: &LaneContext, lane: &Lane, outcome: MessageOutcome) {
        let metrics = &context.metrics;
        metrics.publish_seconds.observe(self.started.elapsed().as_secs_f64());
        metrics.events_per_message.observe(self.gathered.events() as f64);
        metrics.settled(outcome);
        self.gathered.settle(match outcome {
            MessageOutcome::Stored => PublishOutcome::Stored,
            // A restart may find the batch in the spool.
            MessageOutcome::NotStored if self.may_be_spooled => PublishOutcome::Unknown,
            // If a fence kept the events out, another run may take them.
            MessageOutcome::NotStored if lane.end().is_some() => PublishOutcome::RunEnded(context.run),
            MessageOutcome::NotStored => PublishOutcome::NotStored,
            MessageOutcome::Unknown => PublishOutcome::Unknown,
        });
    }
}

/// Reports how the lane ended. Ends the other lanes too, unless the lane was closed.
fn report_end(context: &LaneContext, shard: u16, lane: &Lane, gate: &Gate) -> End {
    let run = context.run;
    gate.close();
    // A lane without its own end stopped because the run is fenced.
    let end = lane.end().unwrap_or(End::Fenced);
    match end {
        End::Closed => debug!(run.id = %run, shard, "closed lane"),
        End::Fenced => {
            context.metrics.fenced.inc();
            warn!(run.id = %run, shard, "lane is fenced: nothing more is written to it");
        }
        End::Failed(why) => {
            context.metrics.fenced.inc();
            error!(run.id = %run, shard, "lane failed, giving up its run: {why}");
        }
    }
    if end != End::Closed {
        context.fenced.cancel();
    }
    end
}

#[cfg(test)]
mod tests {
    use tokio::{sync::oneshot, task::yield_now};

    use super::*;

    const STUCK_AFTER: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn after_a_pause_of_the_process_its_message_is_not_stuck() {
        let (reporter, reported) = oneshot::channel();
        let stopped = async {
            // Nothing else runs meanwhile, and the outcome arrives after the timers.
            std::thread::sleep(5 * STUCK_AFTER);
            for _ in 0..3 {
                yield_now().await;
            }
            reporter.send(MessageOutcome::Stored).unwrap();
        };
        let waiting = async {
            tokio::select! {
                outcome = reported => outcome.ok(),
                () = awake_for(STUCK_AFTER) => None,
            }
        };
        let (outcome, ()) = tokio::join!(waiting, stopped);
        assert_eq!(outcome, Some(MessageOutcome::Stored));
    }
}
