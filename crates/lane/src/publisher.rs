//! Sends events to their lanes and reports the outcomes.
//!
//! The hot path is [`Publisher::reserve`] and [`Slot::publish`]. It needs a few loads, one slot in a bounded queue and one
//! oneshot: no lock, no timer, no copy of the event. The lane's task keeps one deadline for all waiters of a message.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
};

use arc_swap::ArcSwapOption;
use schema::{AccountId, names};
use tokio::sync::{mpsc, oneshot};
use tracing::error;

pub use crate::outgoing::{NoUnits, Outgoing, PublishOutcome, Units};
use crate::{gathered::Entry, link::Link, spool::room::Room};

/// Cheap to clone; all clones publish through the same lanes.
pub struct Publisher<U> {
    /// The lanes of the current run. Empty while there is no run.
    lanes: Arc<ArcSwapOption<Lanes<U>>>,
    link: Link,
}

/// Room for one entry in the lane of an account. A caller takes it before it spends any units.
pub struct Slot<U> {
    permit: mpsc::OwnedPermit<Entry<U>>,
    gate: Arc<Gate>,
}

/// The lane accepts nothing now: NATS is unavailable and the spool has no room, the lane is not open, or its queue is full. The
/// caller must spend no units.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("events cannot be recorded now")]
pub struct Unavailable;

/// The entrances of one run's lanes, by shard.
pub struct Lanes<U> {
    shards: u16,
    entrances: Vec<Entrance<U>>,
}

/// The entrance of one lane. The lane's queue ends when its entrance and all slots are dropped.
pub struct Entrance<U> {
    queue: mpsc::Sender<Entry<U>>,
    gate: Arc<Gate>,
}

/// State that a lane's task shares with the senders.
#[derive(Debug)]
pub struct Gate {
    open: AtomicBool,
    /// New entries go to the spool.
    spooled: AtomicBool,
    /// The spool's room. Unset without a spool: then NATS must be connected.
    room: OnceLock<Arc<Room>>,
    /// The bytes of the entries in the queue.
    queued_bytes: AtomicUsize,
    queued_bytes_max: usize,
}

impl<U: Units> Publisher<U> {
    /// Accepts nothing until [`Self::install`].
    pub fn new(link: Link) -> Self {
        Self {
            lanes: Arc::default(),
            link,
        }
    }

    pub fn reserve(&self, account: AccountId) -> Result<Slot<U>, Unavailable> {
        let lanes = self.lanes.load();
        let entrance = lanes.as_ref().ok_or(Unavailable)?.of(account);
        if !entrance.gate.takes(&self.link) {
            return Err(Unavailable);
        }
        Ok(Slot {
            permit: entrance.queue.clone().try_reserve_owned().map_err(|_| Unavailable)?,
            gate: entrance.gate.clone(),
        })
    }

    /// Sends all later events to these lanes.
    pub fn install(&self, lanes: Lanes<U>) {
        self.lanes.store(Some(Arc::new(lanes)));
    }

    /// Accepts nothing from now on. The lanes end after all reserved slots are used or dropped.
    pub fn remove(&self) {
        self.lanes.store(None);
    }

    /// The queued entries and bytes of all lanes.
    pub fn queued(&self) -> (usize, usize) {
        self.lanes.load().as_ref().map_or((0, 0), |lanes| {
            lanes.entrances.iter().fold((0, 0), |(entries, bytes), entrance| {
                (
                    entries + entrance.queue.max_capacity() - entrance.queue.capacity(),
                    bytes + entrance.gate.queued_bytes.load(Relaxed),
                )
            })
        })
    }
}

impl<U: Units> Slot<U> {
    /// The maximum total size of one entry's events, in bytes.
    pub const BYTES_MAX: usize = 256 * 1024;

    /// Sends the entry in one message (at most [`Slot::BYTES_MAX`] in total) and waits for the outcome, at most until the
    /// deadline.
    pub async fn publish(self, entry: Vec<Outgoing<U>>) -> PublishOutcome {
        let (waiter, outcome) = oneshot::channel();
        self.send(Entry::new(entry, Some(waiter)));
        // An entry that is dropped without an outcome was never part of a message.
        outcome.await.unwrap_or(PublishOutcome::NotStored)
    }

    /// Sends the entry without waiting for the outcome. For a failed request, which nobody is charged for.
    pub fn publish_and_forget(self, entry: Outgoing<U>) {
        self.send(Entry::new(vec![entry], None));
    }

    fn send(self, entry: Entry<U>) {
        if entry.bytes() > Self::BYTES_MAX {
            error!(
                bytes = entry.bytes(),
                "an entry exceeds the size limit of a slot and is not stored"
            );
            return entry.settle(PublishOutcome::NotStored);
        }
        self.gate.queued_bytes.fetch_add(entry.bytes(), Relaxed);
        drop(self.permit.send(entry));
    }
}

impl<U: Units> Lanes<U> {
    /// `entrances` are in the order of the shards.
    pub fn new(entrances: Vec<Entrance<U>>) -> Self {
        Self {
            shards: u16::try_from(entrances.len()).expect("the settings limit the number of shards"),
            entrances,
        }
    }

    fn of(&self, account: AccountId) -> &Entrance<U> {
        &self.entrances[usize::from(names::shard_of(account, self.shards))]
    }
}

impl<U: Units> Entrance<U> {
    /// Creates a closed entrance, and the gate and the queue for its lane's task.
    pub fn new(limits: QueueLimits) -> (Self, Arc<Gate>, mpsc::Receiver<Entry<U>>) {
        let (queue, entries) = mpsc::channel(limits.entries);
        let gate = Arc::new(Gate {
            open: AtomicBool::new(false),
            spooled: AtomicBool::new(false),
            room: OnceLock::new(),
            queued_bytes: AtomicUsize::new(0),
            queued_bytes_max: limits.bytes,
        });
        let entrance = Self {
            queue,
            gate: gate.clone(),
        };
        (entrance, gate, entries)
    }
}

/// The limits of one lane's queue. Slots that were reserved before the byte limit was reached may exceed it.
#[derive(Clone, Copy, Debug)]
pub struct QueueLimits {
    pub entries: usize,
    pub bytes: usize,
}

impl Gate {
    pub fn open(&self) {
        self.open.store(true, Relaxed);
    }

    pub fn close(&self) {
        self.open.store(false, Relaxed);
    }

    /// Sets the room of the spool, which takes new entries while NATS is unavailable.
    pub fn set_room(&self, room: Arc<Room>) {
        self.room.get_or_init(|| room);
    }

    /// Sets whether new entries go to the spool, even while NATS seems to be connected.
    pub fn spooled(&self, spooled: bool) {
        self.spooled.store(spooled, Relaxed);
    }

    /// The entry has left the queue.
    pub fn left<U: Units>(&self, entry: &Entry<U>) {
        self.queued_bytes.fetch_sub(entry.bytes(), Relaxed);
    }

    fn takes(&self, link: &Link) -> bool {
        let is_recorded =
            (link.is_up() && !self.spooled.load(Relaxed)) || self.room.get().is_some_and(|room| room.takes());
        is_recorded && self.open.load(Relaxed) && self.queued_bytes.load(Relaxed) < self.queued_bytes_max
    }
}

impl<U> Clone for Publisher<U> {
    fn clone(&self) -> Self {
        Self {
            lanes: self.lanes.clone(),
            link: self.link.clone(),
        }
    }
}

impl<U> fmt::Debug for Publisher<U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").finish_non_exhaustive()
    }
}
