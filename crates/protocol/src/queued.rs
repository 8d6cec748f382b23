//! A flag that says whether a counter is already in the queue of the lease client.
//!
//! The first caller with news queues the counter. Later callers do not queue it again until the lease client has looked.
//!
//! # Promise
//! The look that follows [`QueuedOver::ask`] sees all news from before it. loom checks this (`tests/atomics`).

use crate::atomics::{Atomics, Flag, Ordering, Std};

/// The flag over the standard library's atomics.
pub type Queued = QueuedOver<Std>;

#[derive(Debug, Default)]
pub struct QueuedOver<A: Atomics> {
    waits: A::Flag,
}

impl<A: Atomics> QueuedOver<A> {
    /// Call it after the news is written. True for the first call since the last look: the caller queues the counter.
    pub fn ask(&self) -> bool {
        !self.waits.swap(true, Ordering::AcqRel)
    }

    /// Call it before reading the news. Later news asks again.
    pub fn look(&self) {
        // A swap, not a store: it reads the value of the last `ask`, so it sees the news before it. After a plain store the
        // look could come too early (`tests/atomics` shows it), and news whose `ask` returned false would be lost.
        self.waits.swap(false, Ordering::AcqRel);
    }
}
