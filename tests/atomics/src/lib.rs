//! Runs the code of `protocol` that shares atomics between threads with loom's atomics. loom runs each test in every order of
//! its threads, with every stale read that the memory model allows. A bug that never shows on x86 can show on ARM.
//!
//! Other atomics of the product have no test here. Either a single atomic is used on its own, so that loom has nothing to
//! reorder, or it works together with something that is not our atomic (`arc-swap`, channels).

use std::sync::atomic::Ordering;

use loom::sync::atomic::{AtomicBool, AtomicU64};
use protocol::{
    atomics::{Atomics, Flag, Word},
    doubt::DoubtOver,
    lease::LeaseOver,
    queued::QueuedOver,
};

pub type Doubt = DoubtOver<Loom>;
pub type Lease = LeaseOver<Loom>;
pub type Queued = QueuedOver<Loom>;

#[derive(Debug, Default)]
pub struct Loom;

impl Atomics for Loom {
    type Word = LoomWord;
    type Flag = LoomFlag;
}

#[derive(Debug)]
pub struct LoomWord(AtomicU64);

#[derive(Debug, Default)]
pub struct LoomFlag(AtomicBool);

impl Word for LoomWord {
    fn new(value: u64) -> Self {
        Self(AtomicU64::new(value))
    }

    fn load(&self, order: Ordering) -> u64 {
        self.0.load(order)
    }

    fn fetch_sub(&self, value: u64, order: Ordering) -> u64 {
        self.0.fetch_sub(value, order)
    }

    fn fetch_or(&self, value: u64, order: Ordering) -> u64 {
        self.0.fetch_or(value, order)
    }

    fn fetch_update(&self, set: Ordering, fetch: Ordering, update: impl FnMut(u64) -> Option<u64>) -> Result<u64, u64> {
        self.0.fetch_update(set, fetch, update)
    }
}

impl Flag for LoomFlag {
    fn load(&self, order: Ordering) -> bool {
        self.0.load(order)
    }

    fn swap(&self, value: bool, order: Ordering) -> bool {
        self.0.swap(value, order)
    }
}
