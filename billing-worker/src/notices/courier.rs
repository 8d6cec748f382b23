//! Sends the notices that are due: many at once, to one endpoint one after the other.

use std::{sync::Arc, time::Duration};

use schema::clock;
use service::Lifecycle;
use sqlx::PgPool;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::sleep,
};
use tracing::{debug, info, warn};

use super::{
    delivery::{Delivery, Outcome},
    metrics::NoticeMetrics,
    outbox::{self, Claimed, Settlement},
    schedule::{self, Next},
};

/// How soon a notice that another worker or a command wrote is found.
const POLL: Duration = Duration::from_secs(1);

/// Cheap to clone.
#[derive(Clone)]
pub struct Courier {
    pub db: PgPool,
    pub delivery: Arc<Delivery>,
    pub metrics: NoticeMetrics,
    /// Permits: what may be under way.
    pub permits: Arc<Semaphore>,
    /// There may be something to send.
    pub wake: Arc<Notify>,
}

impl Courier {
    /// Goes on until the service stops; what is under way then is ended by its own time-out.
    pub async fn run(self, life: Lifecycle) {
        loop {
            tokio::select! {
                () = life.stopping() => return,
                () = self.wake.notified() => {}
                () = sleep(POLL) => {}
            }
            let mut permits = Vec::new();
            while let Ok(permit) = self.permits.clone().try_acquire_owned() {
                permits.push(permit);
            }
            if permits.is_empty() {
                continue;
            }
            match outbox::claim(&self.db, permits.len()).await {
                Ok(claimed) => {
                    for (claimed, permit) in claimed.into_iter().zip(permits) {
                        life.spawn_apart(self.clone().deliver(claimed, permit));
                    }
                }
                // That the database is away is said elsewhere.
                Err(error) => debug!("could not look for notices: {error}"),
            }
        }
    }

    async fn deliver(self, claimed: Claimed, permit: OwnedSemaphorePermit) {
        let now = clock::now_s();
        let settlement = match self.delivery.attempt(&claimed, now).await {
            Outcome::Delivered => Settlement::Delivered,
            Outcome::Gone => Settlement::Gone,
            Outcome::Failed(error) => {
                let attempts = usize::try_from(claimed.attempts).unwrap_or(0) + 1;
                let next = schedule::after_failure(attempts, claimed.failing_since, now, rand::random());
                Settlement::Failed { error, next }
            }
        };
        match outbox::settle(&self.db, &claimed, &settlement).await {
            Ok(true) => self.settled(&claimed, &settlement),
            Ok(false) => debug!(notice.id = %claimed.id, "the lease was lost: another attempt counts"),
            Err(error) => {
                warn!(notice.id = %claimed.id, "an attempt could not be written down, it is made again: {error}");
            }
        }
        drop(permit);
        // The next one of the same endpoint need not wait.
        self.wake.notify_one();
    }

    fn settled(&self, claimed: &Claimed, settlement: &Settlement) {
        let (account, notice) = (claimed.account, claimed.id);
        let outcome = match settlement {
            Settlement::Delivered => {
                info!(account.id = %account, notice.id = %notice, "delivered a notice");
                "delivered"
            }
            Settlement::Failed {
                error,
                next: Next::Again { after_s },
            } => {
                info!(account.id = %account, notice.id = %notice, after_s, "a notice is tried again: {error}");
                "again"
            }
            Settlement::Failed {
                error,
                next: Next::GiveUp,
            } => {
                warn!(account.id = %account, notice.id = %notice, "gave a notice up: {error}");
                "failed"
            }
            Settlement::Failed {
                error,
                next: Next::Disable,
            } => {
                warn!(account.id = %account, notice.id = %notice, "disabled a notice endpoint that failed for 5 days: {error}");
                "failed"
            }
            Settlement::Gone => {
                warn!(account.id = %account, notice.id = %notice, "disabled a notice endpoint: it answered 410 Gone");
                "failed"
            }
        };
        self.metrics.attempted(outcome);
    }
}
