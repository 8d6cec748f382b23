//! The double as calls, pages, webhooks and the test share it.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::billing::advance;
use crate::server::edge::Edge;
use crate::state::State;

/// What calls, pages, webhooks and the test itself share. The lock of the state is never held across an await, and never
/// together with the one of the edge.
pub(crate) struct Double {
    pub state: Mutex<State>,
    pub edge: Mutex<Edge>,
    /// There may be something to deliver.
    pub wake: Notify,
    pub api_key: String,
    pub webhook_secret: String,
    /// The second up to which everything due has been done.
    pub caught_up: AtomicI64,
    pub calls: AtomicU64,
}

/// In an answer's extensions: reset the connection instead of sending it.
#[derive(Clone, Copy)]
pub(crate) struct Reset;

impl Double {
    pub fn new(state: State, edge: Edge, api_key: String, webhook_secret: String) -> Self {
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

    /// A panic under the lock has failed a test already; the others shall see why, not a poisoned lock.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn edge(&self) -> MutexGuard<'_, Edge> {
        self.edge.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state with everything done that is due by now.
    pub fn state_now(&self) -> MutexGuard<'_, State> {
        let mut state = self.state();
        let now = state.now();
        if self.caught_up.swap(now, Ordering::Relaxed) != now {
            advance::catch_up(&mut state);
        }
        state
    }

    pub fn next_request_id(&self) -> String {
        format!("req_{:014}", self.calls.fetch_add(1, Ordering::Relaxed) + 1)
    }
}
