//! The signals of one counter. They notify the lease client of work, and other gateways of units that came back. The
//! counter and its leases share them, so that leases need no reference to the counter.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use protocol::queued::Queued;

use super::{
    leases::requests::{CounterId, LeaseRequests},
    refusals::Refusals,
};

pub(crate) struct Signals {
    id: CounterId,
    pub requests: Arc<LeaseRequests>,
    /// The counter is in the lease client's queue already.
    queued: Queued,
    /// Refusals of this counter that are remembered.
    pub refusals: Refusals,
    /// Other gateways may remember a refusal that units coming back here would void. Until `watched_until`.
    watched: AtomicBool,
    watched_until: Mutex<Option<Instant>>,
}

impl Signals {
    pub(crate) fn new(id: CounterId, requests: &Arc<LeaseRequests>) -> Self {
        Self {
            id,
            requests: Arc::clone(requests),
            queued: Queued::default(),
            refusals: Refusals::default(),
            watched: AtomicBool::new(false),
            watched_until: Mutex::default(),
        }
    }

    /// Puts the counter into the lease client's queue, unless it is there already.
    pub(crate) fn request_service(&self) {
        if self.queued.ask() {
            self.requests.enqueue(self.id);
        }
    }

    /// The lease client takes the counter out of its queue: from here on, a change queues it again.
    pub(crate) fn service_begins(&self) {
        self.queued.look();
    }

    /// Handles a request that ended without spending its reserved `units`. `closed`: they can no longer be spent here.
    ///
    /// Call it only after the units are back in the lease. A gateway that is notified too early gets none of them, and remembers
    /// a refusal.
    pub(crate) fn units_came_back(&self, units: i64, closed: bool) {
        self.refusals.came_back(units);
        if self.is_watched() {
            let (account, pool) = self.id;
            self.requests.returns.note(account, pool, units);
        }
        if closed {
            self.request_service();
        }
    }

    /// Announces units that come back here to other gateways, until `until`.
    pub(crate) fn watch(&self, until: Instant) {
        *self.until() = Some(until);
        self.watched.store(true, Ordering::Release);
    }

    pub(crate) fn is_watched(&self) -> bool {
        if !self.watched.load(Ordering::Acquire) {
            return false;
        }
        let until = self.until();
        let watched = until.is_some_and(|until| Instant::now() < until);
        self.watched.store(watched, Ordering::Release);
        watched
    }

    fn until(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.watched_until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
