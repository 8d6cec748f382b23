//! Reads and decodes the next records of a shard while earlier ones are stored, in a task of its own, within the memory that all
//! shards share.

use std::time::Duration;

use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    content::Content,
    reader::{Message, Reader},
    record::Record,
};
use crate::{
    ingest::{Budget, Ingest},
    metrics,
    stop::Stop,
};

/// Records that are decoded and not yet gathered.
const AHEAD: usize = 64;
const SHOW_UNREAD_EVERY: Duration = Duration::from_secs(5);

pub enum Item {
    Record(Record),
    /// A record that cannot be decoded, and why.
    Dead(Message, String),
    /// Reading ended, and why.
    End(Stop),
}

/// Reads until the guard is dropped.
pub fn start(ingest: &Ingest, reader: Reader, shard: u16) -> (mpsc::Receiver<Item>, DropGuard) {
    let (sender, items) = mpsc::channel(AHEAD);
    let cancelled = CancellationToken::new();
    let feed = Feed {
        reader,
        sender,
        budget: ingest.budget.clone(),
        unread: ingest.metrics.unread.get_or_create(&metrics::Shard { shard }).clone(),
    };
    let guard = cancelled.clone().drop_guard();
    ingest
        .life
        .spawn_apart(async move { cancelled.run_until_cancelled(feed.run()).await });
    (items, guard)
}

struct Feed {
    reader: Reader,
    sender: mpsc::Sender<Item>,
    budget: Budget,
    unread: prometheus_client::metrics::gauge::Gauge,
}

impl Feed {
    async fn run(mut self) {
        loop {
            let item = match self.reader.next().await {
                Ok(message) => match Content::of(&message.payload) {
                    Content::Events(run_id, events) => {
                        let bytes = message.payload.len() as u64;
                        let Some(permit) = self.wait(self.budget.take(bytes)).await else {
                            return;
                        };
                        Item::Record(Record {
                            seq: message.seq,
                            run_id,
                            events,
                            bytes,
                            stored_ms: message.stored_ms,
                            permit: Some(permit),
                        })
                    }
                    Content::Dead(why) => Item::Dead(message, why),
                    Content::Newer(why) => Item::End(Stop::Alarm(why)),
                },
                Err(stop) => Item::End(stop),
            };
            let last = matches!(item, Item::End(_));
            let sender = self.sender.clone();
            let Ok(slot) = self.wait(sender.reserve_owned()).await else {
                return;
            };
            slot.send(item);
            self.show_unread(self.reader.unread());
            if last {
                return;
            }
        }
    }

    /// Waits for room. Meanwhile the lag grows and is shown.
    async fn wait<F: Future>(&self, room: F) -> F::Output {
        tokio::pin!(room);
        let mut show = interval(SHOW_UNREAD_EVERY);
        show.set_missed_tick_behavior(MissedTickBehavior::Delay);
        show.reset();
        loop {
            tokio::select! {
                biased;
                room = &mut room => return room,
                _ = show.tick() => {
                    let unread = self.reader.ask_unread().await;
                    self.show_unread(unread);
                }
            }
        }
    }

    fn show_unread(&self, unread: Option<u64>) {
        if let Some(unread) = unread {
            self.unread.set(unread.try_into().unwrap_or(i64::MAX));
        }
    }
}
