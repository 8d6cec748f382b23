//! Tells other gateways what came back here. They add it to what they remember to remain, ask Postgres again if that may be
//! enough, and recall the units if we hold them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use schema::{AccountId, UsageType, names, recall::CameBack};
use service::Lifecycle;
use tokio::{sync::Notify, time::timeout};
use tracing::{debug, warn};

use super::Recalls;
use crate::quota::leases::Desk;

/// Between two words; so a counter is spoken of a hundred times a second at the most, however many requests fail.
const GATHER: Duration = Duration::from_millis(10);
/// For what is left to tell when the service stops.
const LAST_WORD: Duration = Duration::from_millis(500);
/// Then it is looked at again.
const RECONNECT_PATIENCE: Duration = Duration::from_secs(3_600);

/// Units to be told of. As many entries as there are counters.
#[derive(Debug, Default)]
pub(crate) struct Returns {
    units: Mutex<HashMap<(AccountId, UsageType), i64>>,
    noted: Notify,
}

impl Returns {
    pub fn note(&self, account: AccountId, usage_type: UsageType, units: i64) {
        let mut noted = self.units.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = noted.entry((account, usage_type)).or_default();
        *sum = sum.saturating_add(units);
        drop(noted);
        self.noted.notify_one();
    }

    fn take(&self) -> HashMap<(AccountId, UsageType), i64> {
        std::mem::take(&mut *self.units.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Tells until the service stops. While NATS is away it waits.
pub(crate) async fn tell(desk: Arc<Desk>, recalls: Arc<Recalls>, life: Lifecycle) {
    let stopping = life.token();
    let telling = async {
        loop {
            desk.returns.noted.notified().await;
            tokio::time::sleep(GATHER).await;
            if recalls.link.is_up_within(RECONNECT_PATIENCE).await {
                publish(&desk, &recalls).await;
            }
        }
    };
    stopping.run_until_cancelled(telling).await;
    let last = async {
        publish(&desk, &recalls).await;
        recalls.client.flush().await
    };
    if !matches!(timeout(LAST_WORD, last).await, Ok(Ok(()))) {
        debug!("stopping without NATS: what came back last is not told");
    }
}

async fn publish(desk: &Desk, recalls: &Recalls) {
    for ((account_id, usage_type), units) in desk.returns.take() {
        let came_back = CameBack {
            sender: recalls.asker,
            account_id,
            usage_type: usage_type.name().to_owned(),
            units,
        };
        let payload = serde_json::to_vec(&came_back).expect("it has no maps with keys that are no text");
        if let Err(error) = recalls.client.publish(names::CAME_BACK, payload.into()).await {
            warn!(account.id = %account_id, units, "could not tell that units came back: {error}");
        }
    }
}
