//! The atomics under [`crate::lease`], [`crate::queued`] and [`crate::doubt`].
//!
//! They are generic over [`Atomics`]. The services use [`Std`], the standard library's atomics. `tests/atomics` implements
//! the trait for loom's atomics, so that loom explores the same code.
//!
//! Why a generic: a cargo feature `loom` would be unified over the workspace, so `cargo test` would build the services with
//! loom's atomics, which panic outside a loom test. Under `--cfg loom` tokio has no network, so the services do not compile,
//! and everything would be built twice.

pub use std::sync::atomic::Ordering;
use std::{
    fmt::Debug,
    sync::atomic::{AtomicBool, AtomicU64},
};

/// A family of atomics.
pub trait Atomics {
    type Word: Word;
    type Flag: Flag;
}

/// The standard library's atomics.
#[derive(Clone, Copy, Debug, Default)]
pub struct Std;

impl Atomics for Std {
    type Word = AtomicU64;
    type Flag = AtomicBool;
}

/// An atomic of 64 bits. The methods are those of [`AtomicU64`].
pub trait Word: Debug {
    fn new(value: u64) -> Self;
    fn load(&self, order: Ordering) -> u64;
    fn fetch_sub(&self, value: u64, order: Ordering) -> u64;
    fn fetch_or(&self, value: u64, order: Ordering) -> u64;
    fn fetch_update(&self, set: Ordering, fetch: Ordering, update: impl FnMut(u64) -> Option<u64>) -> Result<u64, u64>;
}

/// An atomic flag. The methods are those of [`AtomicBool`].
pub trait Flag: Debug + Default {
    fn load(&self, order: Ordering) -> bool;
    fn swap(&self, value: bool, order: Ordering) -> bool;
}

impl Word for AtomicU64 {
    #[inline]
    fn new(value: u64) -> Self {
        Self::new(value)
    }

    #[inline]
    fn load(&self, order: Ordering) -> u64 {
        self.load(order)
    }

    #[inline]
    fn fetch_sub(&self, value: u64, order: Ordering) -> u64 {
        self.fetch_sub(value, order)
    }

    #[inline]
    fn fetch_or(&self, value: u64, order: Ordering) -> u64 {
        self.fetch_or(value, order)
    }

    #[inline]
    fn fetch_update(&self, set: Ordering, fetch: Ordering, update: impl FnMut(u64) -> Option<u64>) -> Result<u64, u64> {
        self.fetch_update(set, fetch, update)
    }
}

impl Flag for AtomicBool {
    #[inline]
    fn load(&self, order: Ordering) -> bool {
        self.load(order)
    }

    #[inline]
    fn swap(&self, value: bool, order: Ordering) -> bool {
        self.swap(value, order)
    }
}
