//! The atomics under [`crate::lease`] and [`crate::queued`]: the standard library's. `tests/atomics` compiles the same two
//! files over loom's, which try every order and every stale read that the memory model allows.

pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
