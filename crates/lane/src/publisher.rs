//! Takes events to their lanes and tells what became of them.
//!
//! The hot path is [`Publisher::reserve`] and [`Slot::publish`]: a few loads, one place in a bounded queue, one oneshot;
//! no lock, no timer, no copy of the event. Time is kept by the lane's task, for all who wait on a message at once.

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

pub use crate::outgoing::{NoUnits, Outcome, Outgoing, Units};
use crate::{gathered::Entry, link::Link, spool::room::Room};

/// Cheap to clone; all clones publish through the same lanes.
pub struct Publisher<U> {
    /// The lanes of the run of now; none while there is no run.
    lanes: Arc<ArcSwapOption<Lanes<U>>>,
    link: Link,
}

/// Room for one entry in the lane of an account; taken before a unit is spent.
pub struct Slot<U> {
    place: mpsc::OwnedPermit<Entry<U>>,
    gate: Arc<Gate>,
}

/// The lane cannot take anything now (NATS away and no room in a spool, lane not open, queue full), so no unit is to be spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("events cannot be recorded now")]
pub struct Unavailable;

/// The ways into the open lanes of one run, by shard.
pub struct Lanes<U> {
    entrances: Vec<Entrance<U>>,
}

/// The way into one lane. The lane's queue ends when this and all slots are gone.
pub struct Entrance<U> {
    queue: mpsc::Sender<Entry<U>>,
    gate: Arc<Gate>,
}

/// What a lane's task and those who come to it tell each other.
#[derive(Debug)]
pub struct Gate {
    open: AtomicBool,
    /// What comes in goes to the spool.
    spooled: AtomicBool,
    /// Of the spool; there is none: NATS has to be there.
    room: OnceLock<Arc<Room>>,
    /// Entries that were put into the queue and not taken from it.
    queued_bytes: AtomicUsize,
    queued_bytes_max: usize,
}

impl<U: Units> Publisher<U> {
    /// Takes nothing until [`Self::install`].
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
            place: entrance.queue.clone().try_reserve_owned().map_err(|_| Unavailable)?,
            gate: entrance.gate.clone(),
        })
    }

    /// From here on events go to these lanes.
    pub fn install(&self, lanes: Lanes<U>) {
        self.lanes.store(Some(Arc::new(lanes)));
    }

    /// From here on nothing is taken. The lanes end once all slots that were given out are used or dropped.
    pub fn remove(&self) {
        self.lanes.store(None);
    }

    /// Entries and bytes that wait, over all lanes.
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
    /// What the events of one entry may have in bytes, together.
    pub const BYTES_MAX: usize = 256 * 1024;

    /// Sends the entry, whole, in one message (at most [`Slot::BYTES_MAX`] together), and waits for the outcome, at most for the deadline.
    pub async fn publish(self, entry: Vec<Outgoing<U>>) -> Outcome {
        let (waiter, outcome) = oneshot::channel();
        self.send(Entry::new(entry, Some(waiter)));
        // An entry that is dropped without a word was never part of a message.
        outcome.await.unwrap_or(Outcome::NotStored)
    }

    /// Sends the entry without waiting for what becomes of it: a failed request, of which nobody is charged.
    pub fn publish_and_forget(self, entry: Outgoing<U>) {
        self.send(Entry::new(vec![entry], None));
    }

    fn send(self, entry: Entry<U>) {
        if entry.bytes() > Self::BYTES_MAX {
            error!(
                bytes = entry.bytes(),
                "an entry is larger than a slot takes: it is not stored"
            );
            return entry.settle(Outcome::NotStored);
        }
        self.gate.queued_bytes.fetch_add(entry.bytes(), Relaxed);
        drop(self.place.send(entry));
    }
}

impl<U: Units> Lanes<U> {
    /// In the order of the shards.
    pub fn new(entrances: Vec<Entrance<U>>) -> Self {
        Self { entrances }
    }

    fn of(&self, account: AccountId) -> &Entrance<U> {
        &self.entrances[usize::from(names::shard_of(account, self.entrances.len() as u16))]
    }
}

impl<U: Units> Entrance<U> {
    /// A closed one, and the two ends that its lane's task holds.
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

/// What may wait for one lane. The bytes may be passed by what was reserved before they were reached.
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

    /// While NATS is away, what comes in has this room.
    pub fn set_room(&self, room: Arc<Room>) {
        self.room.get_or_init(|| room);
    }

    /// Whether what comes in goes to the spool, also while NATS seems to be there.
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
