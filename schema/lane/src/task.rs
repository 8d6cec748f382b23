//! One lane at work: gathers what waits while a message is in flight, sends it, settles it, and sees to the end of the
//! lane. Ends when everybody who could send has gone (then the lane is closed) or when the run is fenced.

use std::{pin::Pin, sync::Arc, time::Duration};

use anyhow::Result;
use bytes::Bytes;
use schema::{BatchId, LaneRecord, RunId, lane_record::BatchBuilder};
use service::Backoff;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use crate::{
    gathered::{BatchLimits, Entry, Gathered},
    lane::{Answer, End, Lane, LastRecord, Message, Next, Verdict},
    link::Link,
    metrics::LaneMetrics,
    publisher::{Gate, Outcome, Units},
    subject::LaneSubject,
};

/// Waits and bounds of a lane.
#[derive(Clone, Debug)]
pub struct LaneLimits {
    pub batch: BatchLimits,
    /// For one attempt to publish, and for one look at the last record.
    pub attempt_timeout: Duration,
    /// A message without an outcome for so long: the lane takes nothing more until it has one.
    pub stuck_after: Duration,
    /// Waiters are told "unknown" after this, counted from when their message first went out.
    pub outcome_deadline: Duration,
}

/// What all lanes of a run share.
#[derive(Clone)]
pub struct LaneContext {
    pub run: RunId,
    pub link: Link,
    pub limits: LaneLimits,
    pub metrics: LaneMetrics,
    /// Told by the lane that finds itself fenced, heeded by all others.
    pub fenced: CancellationToken,
}

pub struct LaneTask<U> {
    shard: u16,
    writer: Writer,
    waiting: Waiting<U>,
    context: LaneContext,
}

/// Brings one message after the other to its verdict.
struct Writer {
    lane: Lane,
    subject: LaneSubject,
    context: LaneContext,
}

/// What waits for its message.
struct Waiting<U> {
    gate: Arc<Gate>,
    queue: mpsc::Receiver<Entry<U>>,
    /// Taken from the queue, and too large for the message it was taken for.
    held_over: Option<Entry<U>>,
}

impl<U: Units> LaneTask<U> {
    /// Opens the lane: tries until it is open. `None`: it was fenced before.
    pub async fn open(
        context: LaneContext,
        subject: LaneSubject,
        shard: u16,
        gate: Arc<Gate>,
        queue: mpsc::Receiver<Entry<U>>,
    ) -> Option<Self> {
        let mut writer = Writer {
            lane: Lane::new(),
            subject,
            context: context.clone(),
        };
        let open = LaneRecord::open(context.run).encode().into();
        let verdict = writer.write(Message::Open, open).await;
        let task = Self {
            shard,
            writer,
            waiting: Waiting {
                gate,
                queue,
                held_over: None,
            },
            context,
        };
        if verdict == Verdict::Stored {
            task.waiting.gate.open();
            return Some(task);
        }
        task.report_end();
        None
    }

    /// Until the end of the lane.
    pub async fn run(mut self) -> End {
        let fenced = self.context.fenced.clone();
        while !fenced.is_cancelled() {
            let limits = self.context.limits.batch;
            match fenced.run_until_cancelled(self.waiting.gather(limits)).await {
                Some(Some(gathered)) => self.publish(gathered).await,
                Some(None) => {
                    let close = LaneRecord::close(self.context.run).encode().into();
                    self.writer.write(Message::Close, close).await;
                    break;
                }
                None => break,
            }
            if self.writer.lane.end().is_some() {
                break;
            }
        }
        let end = self.report_end();
        self.waiting.refuse_until_the_end(self.context.run).await;
        end
    }

    async fn publish(&mut self, mut gathered: Gathered<U>) {
        let batch = BatchId::new();
        let record = gathered.encode(batch, self.context.run);
        let (metrics, limits) = (self.context.metrics.clone(), &self.context.limits);
        let started = Instant::now();

        let waiting = &mut self.waiting;
        let verdict = {
            let mut writing = std::pin::pin!(self.writer.write(Message::Batch(batch), record));
            match unless_stuck(writing.as_mut(), limits.stuck_after).await {
                Some(verdict) => verdict,
                None => {
                    // Who waits behind this message was not sent, and can be told so at once.
                    metrics.stuck.inc();
                    waiting.gate.close();
                    let deadline = started + limits.outcome_deadline;
                    let verdict = tokio::select! {
                        verdict = &mut writing => verdict,
                        () = waiting.refuse_while_stuck(&mut gathered, deadline) => unreachable!("it waits for ever"),
                    };
                    waiting.gate.open();
                    verdict
                }
            }
        };
        metrics.publish_seconds.observe(started.elapsed().as_secs_f64());
        metrics.events_per_message.observe(gathered.events() as f64);
        metrics.settled(verdict);
        gathered.settle(match verdict {
            Verdict::Stored => Outcome::Stored,
            // What a fence has kept out, another run may take.
            Verdict::NotStored if self.writer.lane.end().is_some() => Outcome::RunEnded(self.context.run),
            Verdict::NotStored => Outcome::NotStored,
            Verdict::Unknown => Outcome::Unknown,
        });
    }

    /// Says how the lane ended, and to the other lanes if they have to end too.
    fn report_end(&self) -> End {
        let (run, shard) = (self.context.run, self.shard);
        self.waiting.gate.close();
        // Without an end of its own, it was told that the run is fenced.
        let end = self.writer.lane.end().unwrap_or(End::Fenced);
        match end {
            End::Closed => debug!(run.id = %run, shard, "closed lane"),
            End::Fenced => {
                self.context.metrics.fenced.inc();
                warn!(run.id = %run, shard, "lane is fenced: nothing more is written to it");
            }
            End::Failed(why) => {
                self.context.metrics.fenced.inc();
                error!(run.id = %run, shard, "lane failed, its run is given up: {why}");
            }
        }
        if end != End::Closed {
            self.context.fenced.cancel();
        }
        end
    }
}

/// The verdict, unless it takes too long. A wait that took far longer than it was to says that this process did not run for a
/// while: nothing is known to be stuck, so it begins anew. Else what a gateway that was stopped, and fenced meanwhile, has in
/// its queues would be refused, a moment before the fence is found and the next run can take it.
async fn unless_stuck<T>(mut writing: Pin<&mut impl Future<Output = T>>, stuck_after: Duration) -> Option<T> {
    loop {
        let began = Instant::now();
        if let Ok(verdict) = timeout(stuck_after, writing.as_mut()).await {
            return Some(verdict);
        }
        if began.elapsed() < stuck_after * 2 {
            return None;
        }
    }
}

impl<U: Units> Waiting<U> {
    /// All that waits, up to the limits; waits for the first. `None`: nobody is left who could send.
    async fn gather(&mut self, limits: BatchLimits) -> Option<Gathered<U>> {
        let first = match self.held_over.take() {
            Some(entry) => entry,
            None => self.next().await?,
        };
        let mut gathered = Gathered::default();
        let mut next = Some(first);
        while let Some(entry) = next {
            if let Err(entry) = gathered.push(entry, limits) {
                self.held_over = Some(entry);
                break;
            }
            if gathered.is_full(limits) {
                break;
            }
            next = self.queue.try_recv().ok().inspect(|entry| self.gate.left(entry));
        }
        Some(gathered)
    }

    async fn next(&mut self) -> Option<Entry<U>> {
        self.queue.recv().await.inspect(|entry| self.gate.left(entry))
    }

    /// Tells all that waits, and all that still comes, that it is not stored; and `gathered`, at its deadline, that
    /// nobody knows. Never ends.
    async fn refuse_while_stuck(&mut self, gathered: &mut Gathered<U>, deadline: Instant) {
        let refusing = async {
            self.refuse_all(Outcome::NotStored).await;
            std::future::pending::<()>().await
        };
        let stop_waiting = async {
            tokio::time::sleep_until(deadline).await;
            gathered.stop_waiting();
            std::future::pending::<()>().await
        };
        tokio::join!(refusing, stop_waiting);
    }

    /// The lane has ended: nothing new comes in, and what has a slot already is refused.
    async fn refuse_until_the_end(mut self, run: RunId) {
        self.queue.close();
        self.refuse_all(Outcome::RunEnded(run)).await;
    }

    async fn refuse_all(&mut self, outcome: Outcome) {
        if let Some(entry) = self.held_over.take() {
            entry.settle(outcome);
        }
        while let Some(entry) = self.next().await {
            entry.settle(outcome);
        }
    }
}

impl Writer {
    /// Tries until there is a verdict.
    async fn write(&mut self, message: Message, record: Bytes) -> Verdict {
        let mut pauses = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));
        let mut attempts = 0u32;
        let mut next = self.lane.begin(message, BatchId::new());
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
                    let answer = self.attempt(expected, record).await;
                    self.count(answer, attempts);
                    self.lane.answered(answer)
                }
                Next::Read => match self.last_record().await {
                    Ok(record) => self.lane.read(record),
                    Err(failure) => {
                        debug!("reading a lane's last record: {failure:#}");
                        sleep(pauses.next_delay()).await;
                        Next::Read
                    }
                },
                Next::Done(verdict) => return verdict,
            }
        }
    }

    async fn attempt(&self, expected: u64, record: Bytes) -> Answer {
        let (link, limits) = (&self.context.link, &self.context.limits);
        // What is not sent cannot land: without a connection the client would keep it, and send it when nobody wants it.
        if !link.is_up() && !link.is_up_within(limits.stuck_after).await {
            return Answer::Refused;
        }
        tokio::select! {
            answer = self.subject.publish(expected, record, limits.attempt_timeout) => answer,
            () = link.lost() => Answer::Unclear,
        }
    }

    async fn last_record(&self) -> Result<LastRecord> {
        let (link, limits) = (&self.context.link, &self.context.limits);
        if !link.is_up_within(limits.attempt_timeout).await {
            anyhow::bail!("not connected");
        }
        self.subject.last_record(limits.attempt_timeout).await
    }

    fn count(&self, answer: Answer, attempt: u32) {
        let metrics = &self.context.metrics;
        metrics.attempts.inc();
        match answer {
            Answer::Stored { .. } => {}
            Answer::Unclear => {
                metrics.unclear.inc();
                debug!(run.id = %self.context.run, attempt, "a publish has an unknown outcome: reading the lane's last record");
            }
            Answer::Refused => {
                metrics.refused.inc();
            }
            Answer::WrongLast => {
                metrics.wrong_last.inc();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{sync::oneshot, task::yield_now};

    use super::*;

    const STUCK_AFTER: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn process_that_was_stopped_does_not_take_its_message_for_stuck() {
        let (tell, told) = oneshot::channel();
        let mut writing = std::pin::pin!(told);
        let stopped = async {
            // Nothing runs meanwhile, and the verdict comes after the timers.
            std::thread::sleep(5 * STUCK_AFTER);
            for _ in 0..3 {
                yield_now().await;
            }
            tell.send(Verdict::Stored).unwrap();
        };
        let (verdict, ()) = tokio::join!(unless_stuck(writing.as_mut(), STUCK_AFTER), stopped);
        assert_eq!(verdict, Some(Ok(Verdict::Stored)));
    }

    #[tokio::test]
    async fn message_without_a_verdict_is_stuck() {
        let mut writing = std::pin::pin!(std::future::pending::<Verdict>());
        assert_eq!(unless_stuck(writing.as_mut(), STUCK_AFTER).await, None);
    }
}
