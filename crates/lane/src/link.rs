//! Whether NATS is connected, as the hot path and the lanes want to know it.
//!
//! The client tells nobody when a connection ends under a request that waits for its answer; so its two public figures,
//! the state and the count of connections, are looked at twenty times a second.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_nats::{Client, connection::State};
use service::Lifecycle;
use tokio::sync::watch;

const LOOK: Duration = Duration::from_millis(50);

/// Cheap to clone; all clones see the same connection.
#[derive(Clone, Debug)]
pub struct Link {
    up: Arc<AtomicBool>,
    seen: watch::Receiver<Seen>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    up: bool,
    connects: u64,
}

impl Link {
    /// Watches `client` until the service stops.
    pub fn watch(client: &Client, life: &Lifecycle) -> Self {
        let look = {
            let (client, statistics) = (client.clone(), client.statistics());
            move || Seen {
                up: client.connection_state() == State::Connected,
                connects: statistics.connects.load(Ordering::Relaxed),
            }
        };
        let (tell, seen) = watch::channel(look());
        let up = Arc::new(AtomicBool::new(seen.borrow().up));
        let (stopping, shown) = (life.token(), up.clone());
        life.spawn(async move {
            let mut ticks = tokio::time::interval(LOOK);
            while stopping.run_until_cancelled(ticks.tick()).await.is_some() {
                let now = look();
                shown.store(now.up, Ordering::Relaxed);
                tell.send_if_modified(|seen| std::mem::replace(seen, now) != now);
            }
            // `tell` is dropped: who waits for a change waits no longer than its own time-out.
        });
        Self { up, seen }
    }

    /// One relaxed load.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// Waits until it is connected, at most `patience`. False: it is not.
    pub async fn is_up_within(&self, patience: Duration) -> bool {
        let mut seen = self.seen.clone();
        matches!(
            tokio::time::timeout(patience, seen.wait_for(|seen| seen.up)).await,
            Ok(Ok(_))
        )
    }

    /// Resolves when it was down for so long without a break.
    pub async fn is_down_for(&self, patience: Duration) {
        let mut seen = self.seen.clone();
        loop {
            if seen.wait_for(|seen| !seen.up).await.is_err() {
                return std::future::pending().await;
            }
            if tokio::time::timeout(patience, seen.wait_for(|seen| seen.up))
                .await
                .is_err()
            {
                return;
            }
        }
    }

    /// Resolves when the connection of now is lost; what was sent on it may not be answered any more.
    pub async fn lost(&self) {
        let mut seen = self.seen.clone();
        let now = *seen.borrow_and_update();
        if seen.wait_for(|seen| *seen != now).await.is_err() {
            std::future::pending().await
        }
    }
}
