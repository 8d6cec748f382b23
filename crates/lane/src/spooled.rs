//! A lane while NATS is unavailable and until its spool is drained. It appends new entries to the spool and acknowledges them. At
//! the same time it publishes the spool's batches to the stream. This ends for all lanes together, when the spool is empty.

use std::{future::Future, pin::Pin, time::Duration};

use futures_util::future::MaybeDone;
use protocol::lane::MessageOutcome;
use schema::BatchId;
use tokio::time::sleep;
use tracing::debug;

use crate::{
    context::LaneContext,
    gathered::Gathered,
    outgoing::{PublishOutcome, Units},
    spool::{Delivered, LaneSpool, RunSpool, SpoolError, frame::Batch, log::AppendError},
    waiting::Waiting,
    writer::Writer,
};

/// The minimum time between two appends of a lane. Fewer batches drain faster. 8 lanes append at most 1,600 a second.
const APPEND_INTERVAL: Duration = Duration::from_millis(5);
/// The same while the spool is drained, so that draining is faster than appending. 8 lanes append at most 80 a second, and
/// a stream that fsyncs each in 3 ms takes 300.
const APPEND_INTERVAL_DRAINING: Duration = Duration::from_millis(100);
/// At this backlog or less, new entries wait for the end of the drain instead of prolonging it.
const LAST_BATCHES: u64 = 256;
/// The maximum time of that wait.
const LAST_WAIT: Duration = Duration::from_millis(500);

/// `writing` publishes the lane's first message in the spool, `first`, which may still be in flight.
pub(crate) async fn until_released<U: Units>(
    context: &LaneContext,
    writing: Pin<&mut MaybeDone<impl Future<Output = (Writer, MessageOutcome)>>>,
    first: BatchId,
    waiting: &mut Waiting<U>,
    lane: &mut LaneSpool,
    release: u64,
) -> Writer {
    let LaneSpool {
        spool,
        shard,
        delivered,
    } = lane;
    let publishing = async {
        let mut writing = writing;
        (&mut writing).await;
        let (writer, outcome) = writing.take_output().expect("it is taken once, when it is done");
        let mut known = (outcome == MessageOutcome::Stored).then_some(first);
        let mut writer = writer;
        while writer.lane.end().is_none() {
            let next = tokio::select! {
                biased;
                () = spool.released(release) => break,
                () = context.fenced.cancelled() => break,
                next = delivered.recv() => next,
            };
            let Some(next) = next else {
                // The keeper is gone: the process stops, or the run is over.
                context.fenced.cancelled().await;
                break;
            };
            publish(&mut writer, &next, known.take()).await;
            if writer.lane.end().is_none() {
                context.metrics.settled(MessageOutcome::Stored);
                spool.stored(&next);
            }
        }
        if writer.lane.end().is_some() {
            context.fenced.cancel();
        }
        writer
    };
    let appending = append(context, waiting, spool, *shard, release);
    tokio::join!(publishing, appending).0
}

/// `known`: this batch is already in the stream.
async fn publish(writer: &mut Writer, delivered: &Delivered, known: Option<BatchId>) {
    let batch = &delivered.batch;
    if known != Some(batch.id) {
        // A lane that kept running needs no empty batch here: if one had been stored, the lane would know.
        writer.store(batch.id, BatchId::NIL, batch.record.clone()).await;
    }
}

async fn append<U: Units>(context: &LaneContext, waiting: &mut Waiting<U>, spool: &RunSpool, shard: u16, release: u64) {
    loop {
        spool.hold();
        tokio::select! {
            biased;
            () = spool.released(release) => return,
            () = context.fenced.cancelled() => return,
            () = append_due(waiting, spool) => {}
        }
        let may_append = tokio::select! {
            may_append = spool.hold_no_more(release) => may_append,
            () = context.fenced.cancelled() => false,
        };
        if !may_append {
            return;
        }
        append_one(context, spool, shard, waiting.gather_now(context.limits.batch)).await;
    }
}

/// Resolves when an entry waits that should be appended now, rather than wait for the end of the drain.
async fn append_due<U: Units>(waiting: &mut Waiting<U>, spool: &RunSpool) {
    if !waiting.arrived().await {
        std::future::pending::<()>().await;
    }
    match spool.is_moving() {
        true if spool.backlog() <= LAST_BATCHES => sleep(LAST_WAIT).await,
        true => sleep(APPEND_INTERVAL_DRAINING).await,
        false => sleep(APPEND_INTERVAL).await,
    }
}

async fn append_one<U: Units>(context: &LaneContext, spool: &RunSpool, shard: u16, gathered: Gathered<U>) {
    let id = BatchId::new();
    let batch = Batch {
        shard,
        id,
        empty: BatchId::NIL,
        expected: 0,
        record: gathered.encode(id, context.run),
    };
    let outcome = match spool.append(batch, false).await {
        Ok(_) => {
            context.metrics.events_per_message.observe(gathered.events() as f64);
            PublishOutcome::Stored
        }
        Err(SpoolError::Failed(AppendError::Unknown(_))) => PublishOutcome::Unknown,
        Err(failure) => {
            debug!(run.id = %context.run, shard, "not spooled: {failure}");
            PublishOutcome::NotStored
        }
    };
    gathered.settle(outcome);
}
