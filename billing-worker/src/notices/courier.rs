//! Sends due notices: many at a time, but one at a time per endpoint.

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
    delivery::{Delivery, DeliveryOutcome},
    metrics::NoticeMetrics,
    outbox::{self, Claimed, Settlement},
    schedule::{self, Next},
};

/// How soon a notice of another worker or of a command is found.
const POLL: Duration = Duration::from_secs(1);

/// Cheap to clone.
#[derive(Clone)]
pub struct Courier {
    pub db: PgPool,
    pub delivery: Arc<Delivery>,
    pub metrics: NoticeMetrics,
    /// Limits concurrent deliveries.
    pub permits: Arc<Semaphore>,
    /// Notified when a notice may be due.
    pub wake: Arc<Notify>,
}

impl Courier {
    /// Runs until the service stops. Running deliveries then end by their own time-out.
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
                // Another task logs that the database is unavailable.
                Err(error) => debug!("could not look for notices: {error}"),
            }
        }
    }

    async fn deliver(self, claimed: Claimed, permit: OwnedSemaphorePermit) {
        let now = clock::now_s();
        let settlement = match self.delivery.attempt(&claimed, now).await {
            DeliveryOutcome::Delivered => Settlement::Delivered,
            DeliveryOutcome::Gone => Settlement::Gone,
            DeliveryOutcome::Failed(error) => {
                let attempts = usize::try_from(claimed.attempts).unwrap_or(0) + 1;
                let next = schedule::after_failure(attempts, claimed.failing_since, now, rand::random());
                Settlement::Failed { error, next }
            }
        };
        match outbox::settle(&self.db, &claimed, &settlement).await {
            Ok(true) => self.settled(&claimed, &settlement),
            Ok(false) => debug!(notice.id = %claimed.id, "another worker has the claim and stores its own result"),
            Err(error) => {
                warn!(notice.id = %claimed.id, "could not store the result of a delivery, it will be repeated: {error}");
            }
        }
        drop(permit);
        // Look for the next notice of the same endpoint now.
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
                info!(account.id = %account, notice.id = %notice, after_s, "delivery of a notice failed, will retry: {error}");
                "again"
            }
            Settlement::Failed {
                error,
                next: Next::GiveUp,
            } => {
                warn!(account.id = %account, notice.id = %notice, "gave up a notice: {error}");
                "failed"
            }
            Settlement::Failed {
                error,
                next: Next::Disable,
            } => {
                warn!(account.id = %account, notice.id = %notice, "disabled a notice endpoint after 5 days of failures: {error}");
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
