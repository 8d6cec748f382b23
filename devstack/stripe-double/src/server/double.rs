//! The state that calls, pages, webhooks and the test share.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::billing::advance;
use crate::server::edge::Edge;
use crate::state::State;

/// The state that calls, pages, webhooks and the test share. The lock of `state` is never held across an await, and never
/// together with the lock of `edge`.
pub(crate) struct Double {
    pub state: Mutex<State>,
    pub edge: Mutex<Edge>,
    /// Notified when there may be an event to deliver.
    pub wake: Notify,
    pub api_key: String,
    pub webhook_secret: String,
    /// Everything that is due up to this second has been done.
    pub caught_up: AtomicI64,
    pub calls: AtomicU64,
}

/// In a response's extensions: reset the connection instead of sending the response.
#[derive(Clone, Copy)]
pub(crate) struct Reset;

impl Double {
    pub(crate) fn new(state: State, edge: Edge, api_key: String, webhook_secret: String) -> Self {
        Self {
            state: Mutex::new(state),
            edge: Mutex::new(edge),
            wake: Notify::new(),
            api_key,
            webhook_secret,
            caught_up: AtomicI64::new(i64::MIN),
            calls: AtomicU64::new(0),
        }
    }

    /// A panic under the lock has already failed a test. Later callers must see that failure, not a poisoned lock.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn edge(&self) -> MutexGuard<'_, Edge> {
        self.edge.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state after everything that is due by now has been done.
    pub(crate) fn state_now(&self) -> MutexGuard<'_, State> {
        let mut state = self.state();
        let now = state.now();
        if self.caught_up.swap(now, Ordering::Relaxed) != now {
            advance::catch_up(&mut state);
        }
        state
    }

    pub(crate) fn next_request_id(&self) -> String {
        format!("req_{:014}", self.calls.fetch_add(1, Ordering::Relaxed) + 1)
    }
}
