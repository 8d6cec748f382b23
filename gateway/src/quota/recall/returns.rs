//! Announces units that came back here to other gateways. They add the units to those that remained at their last refusal. If
//! the sum may cover a request, they ask PostgreSQL again, and recall the units if this gateway holds them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use schema::{AccountId, PoolType, names, recall::CameBack};
use service::Lifecycle;
use tokio::{sync::Notify, time::timeout};
use tracing::{debug, warn};

use super::Recalls;

/// Time between two announcements. A counter is announced at most a hundred times a second, even if many requests fail.
const GATHER: Duration = Duration::from_millis(10);
/// For the last announcements when the service stops.
const LAST_ANNOUNCEMENTS: Duration = Duration::from_millis(500);
/// The length of one wait for NATS. After it the next wait begins.
const RECONNECT_PATIENCE: Duration = Duration::from_secs(3_600);

/// Units to be announced. At most one entry for each counter.
#[derive(Debug, Default)]
pub(crate) struct Returns {
    units: Mutex<HashMap<(AccountId, PoolType), i64>>,
    noted: Notify,
}

impl Returns {
    pub(crate) fn note(&self, account: AccountId, pool: PoolType, units: i64) {
        let mut noted = self.units.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = noted.entry((account, pool)).or_default();
        *sum = sum.saturating_add(units);
        drop(noted);
        self.noted.notify_one();
    }

    fn take(&self) -> HashMap<(AccountId, PoolType), i64> {
        std::mem::take(&mut *self.units.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Announces until the service stops. Waits while NATS is unavailable.
pub(crate) async fn announce(returns: Arc<Returns>, recalls: Arc<Recalls>, life: Lifecycle) {
    let stopping = life.token();
    let announcing = async {
        loop {
            returns.noted.notified().await;
            tokio::time::sleep(GATHER).await;
            if recalls.link.is_up_within(RECONNECT_PATIENCE).await {
                publish(&returns, &recalls).await;
            }
        }
    };
    stopping.run_until_cancelled(announcing).await;
    let last = async {
        publish(&returns, &recalls).await;
        recalls.client.flush().await
    };
    if !matches!(timeout(LAST_ANNOUNCEMENTS, last).await, Ok(Ok(()))) {
        debug!("stopping without NATS: the last returned units are not announced");
    }
}

async fn publish(returns: &Returns, recalls: &Recalls) {
    for ((account_id, pool), units) in returns.take() {
        let came_back = CameBack {
            sender: recalls.asker,
            account_id,
            usage_type: pool.name(),
            units,
        };
        let payload = serde_json::to_vec(&came_back).expect("a struct of numbers and strings is always JSON");
        if let Err(error) = recalls.client.publish(names::CAME_BACK, payload.into()).await {
            warn!(account.id = %account_id, units, "could not announce returned units: {error}");
        }
    }
}
