//! Tells the hot path and the lanes whether NATS is connected.
//!
//! The client does not report that a connection ended while a request waits for its answer. So this module polls the
//! client's two public values, the connection state and the connection count, twenty times a second.

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
        let (sender, seen) = watch::channel(look());
        let up = Arc::new(AtomicBool::new(seen.borrow().up));
        let (stopping, shown) = (life.token(), up.clone());
        life.spawn(async move {
            let mut ticks = tokio::time::interval(LOOK);
            while stopping.run_until_cancelled(ticks.tick()).await.is_some() {
                let now = look();
                shown.store(now.up, Ordering::Relaxed);
                sender.send_if_modified(|seen| std::mem::replace(seen, now) != now);
            }
            // This drops `sender`. A caller that still waits for a change waits until its own timeout.
        });
        Self { up, seen }
    }

    /// One relaxed load.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// Waits until NATS is connected, at most `patience`. Returns false if it is still not connected.
    pub async fn is_up_within(&self, patience: Duration) -> bool {
        let mut seen = self.seen.clone();
        matches!(
            tokio::time::timeout(patience, seen.wait_for(|seen| seen.up)).await,
            Ok(Ok(_))
        )
    }

    /// Resolves when the connection has been down for `patience` without a break.
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

    /// Resolves when the current connection is lost. Requests sent on it may get no answer.
    pub async fn lost(&self) {
        let mut seen = self.seen.clone();
        let now = *seen.borrow_and_update();
        if seen.wait_for(|seen| *seen != now).await.is_err() {
            std::future::pending().await
        }
    }
}
