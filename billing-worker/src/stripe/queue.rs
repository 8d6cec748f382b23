//! All calls to Stripe wait here until the rate limits allow them: reads, writes and meter events each have a rate of their own.
//! [`order`] decides which call is next.
//!
//! A caller that is dropped while it waits leaves the queue, and the next one moves up. No lock is held across an await. The
//! queue ignores a shutdown: it admits calls as long as callers wait.
//!
//! | what | file |
//! |---|---|
//! | classes of calls, and their shares | [`class`] |
//! | which waiting call is next | [`order`] |
//! | calls per second | [`rate`] |
//! | calls that share a rate | [`bucket`] |

mod bucket;
pub mod class;
pub mod metrics;
mod order;
mod rate;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use schema::AccountId;
use tokio::{
    sync::oneshot::{self, Receiver, Sender},
    time::sleep_until,
};
use tokio_util::task::TaskTracker;

use self::{
    bucket::{Bucket, Next},
    class::Class,
    metrics::QueueMetrics,
    order::Ticket,
};
use super::{StripeError, StripeSettings};

/// The rate limit that a call counts against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    Reads,
    Writes,
    MeterEvents,
}

/// Cheap to clone; all clones are one queue.
#[derive(Clone)]
pub struct Queue {
    inner: Arc<Inner>,
}

struct Inner {
    reads: Mutex<Waiters>,
    writes: Mutex<Waiters>,
    meter_events: Mutex<Waiters>,
    metrics: QueueMetrics,
    /// One task for each limit with waiting calls. It ends with the last of them.
    timers: TaskTracker,
}

struct Waiters {
    bucket: Bucket<Sender<()>>,
    /// A task admits the waiting calls.
    has_timer: bool,
}

impl Queue {
    pub fn new(settings: &StripeSettings, metrics: QueueMetrics) -> Self {
        let waiters = |per_second| {
            Mutex::new(Waiters {
                bucket: Bucket::per_second(per_second),
                has_timer: false,
            })
        };
        Self {
            inner: Arc::new(Inner {
                reads: waiters(settings.reads_per_second()),
                writes: waiters(settings.writes_per_second()),
                meter_events: waiters(settings.stripe_meter_events_per_second),
                metrics,
                timers: TaskTracker::new(),
            }),
        }
    }

    /// Returns when the call may be made. [`StripeError::Full`]: too many calls wait, and this one was not made.
    pub async fn admit(&self, limit: Limit, class: Class, account: Option<AccountId>) -> Result<(), StripeError> {
        let began = Instant::now();
        let waiting = self.enter(limit, class, account)?;
        waiting.admitted().await;
        self.inner.metrics.waited(class, began.elapsed());
        Ok(())
    }

    fn enter(&self, limit: Limit, class: Class, account: Option<AccountId>) -> Result<Waiting, StripeError> {
        let (sender, admitted) = oneshot::channel();
        let mut waiters = self.waiters(limit);
        // Calls whose time has come make room.
        self.advance(&mut waiters);
        let Ok(ticket) = waiters.bucket.order.push(class, account, sender) else {
            self.inner.metrics.full(class);
            return Err(StripeError::Full);
        };
        self.inner.metrics.entered(class);
        let waiting = Waiting {
            queue: self.clone(),
            limit,
            ticket,
            admitted,
        };
        if self.advance(&mut waiters).is_some() && !waiters.has_timer {
            waiters.has_timer = true;
            self.inner.timers.spawn(self.clone().run_timer(limit));
        }
        Ok(waiting)
    }

    /// Admits the calls whose time has come. Returns when the next waiting call may be made; `None`: no call waits.
    fn advance(&self, waiters: &mut Waiters) -> Option<Instant> {
        loop {
            match waiters.bucket.next(Instant::now()) {
                // Its receiver exists: a caller that leaves removes its call first.
                Next::Call(sender) => sender.send(()).unwrap_or_default(),
                Next::At(at) => return Some(at),
                Next::Nothing => return None,
            }
        }
    }

    async fn run_timer(self, limit: Limit) {
        loop {
            let at = {
                let mut waiters = self.waiters(limit);
                match self.advance(&mut waiters) {
                    Some(at) => at,
                    None => {
                        waiters.has_timer = false;
                        return;
                    }
                }
            };
            sleep_until(at.into()).await;
        }
    }

    fn waiters(&self, limit: Limit) -> MutexGuard<'_, Waiters> {
        let waiters = match limit {
            Limit::Reads => &self.inner.reads,
            Limit::Writes => &self.inner.writes,
            Limit::MeterEvents => &self.inner.meter_events,
        };
        waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call in the queue. Dropping it removes the call.
struct Waiting {
    queue: Queue,
    limit: Limit,
    ticket: Ticket,
    admitted: Receiver<()>,
}

impl Waiting {
    async fn admitted(mut self) {
        (&mut self.admitted)
            .await
            .expect("the queue drops a sender only when its call is admitted or removed");
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.queue.inner.metrics.left(self.ticket.class);
        // A call that was admitted is not there any more. It counts against the rate, also if its caller did not make it.
        drop(self.queue.waiters(self.limit).bucket.order.remove(&self.ticket));
    }
}

#[cfg(test)]
mod tests;
