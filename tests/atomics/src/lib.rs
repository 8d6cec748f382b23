//! The gateway's files in which atomics meet, compiled over loom's atomics instead of the standard library's. loom runs a
//! test in every order of its threads, with every stale read that the memory model allows: what an x86 never shows, an ARM may.
//!
//! The very files, by path, and not a `cfg(loom)`: under that cfg tokio has no network, so the gateway does not compile, and
//! everything would be built a second time. Other atomics have no test here because one atomic alone tells what they tell
//! (`turn::Queue`'s tickets, the lanes' gates) or because their partner is no atomic of ours (`arc-swap`, channels).

#[path = "../../../gateway/src/lease.rs"]
pub mod lease;
#[path = "../../../gateway/src/queued.rs"]
pub mod queued;

pub(crate) mod sync {
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
}
