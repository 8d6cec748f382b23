//! Announces changes to gateways after the commit. Gateways apply an announced change at once; a gateway that misses the
//! announcement finds the change in the database within a minute. So nothing fails here when NATS is unavailable.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use async_nats::{Client, connection::State};
use schema::announcement::Announcement;
use service::{Health, nats::NatsSettings};
use tokio::{sync::OnceCell, time::timeout};
use tracing::warn;

use crate::metrics::Metrics;

/// The longest time that an announcement may delay the response to its change.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Clone)]
pub struct Announcer {
    client: Arc<OnceCell<Client>>,
    /// Set for commands, which connect at the first announcement. The service connects at its start.
    connect: Option<NatsSettings>,
    /// Nobody listens.
    is_silent: bool,
    metrics: Metrics,
}

impl Announcer {
    /// For the service: announces after [`Self::connected`] was called.
    pub fn of_service(metrics: Metrics) -> Self {
        Self {
            client: Arc::default(),
            connect: None,
            is_silent: false,
            metrics,
        }
    }

    /// For a database that no gateway reads.
    pub fn to_nobody() -> Self {
        Self {
            client: Arc::default(),
            connect: None,
            is_silent: true,
            metrics: Metrics::default(),
        }
    }

    /// For a command: connects at its first announcement.
    pub fn of_command(settings: &NatsSettings) -> Self {
        Self {
            client: Arc::default(),
            connect: Some(settings.clone()),
            is_silent: false,
            metrics: Metrics::default(),
        }
    }

    pub fn connected(&self, client: Client) {
        // A second connection is not needed: the first one reconnects by itself.
        self.client.set(client).ok();
    }

    /// The connection, if there is one.
    pub fn client(&self) -> Option<&Client> {
        self.client.get()
    }

    /// The connection. A command connects with the first call. Fails while the service has none yet.
    pub async fn connection(&self) -> Result<&Client> {
        match &self.connect {
            Some(settings) => {
                let connect = async || service::nats::connect(settings, "billing-worker command", &Health::new()).await;
                self.client.get_or_try_init(connect).await
            }
            None => self.client.get().context("not connected yet"),
        }
    }

    pub async fn announce(&self, announcement: Announcement) {
        self.announce_all(&[announcement]).await;
    }

    pub async fn announce_all(&self, announcements: &[Announcement]) {
        if announcements.is_empty() || self.is_silent {
            return;
        }
        let published = match timeout(PATIENCE, self.publish(announcements)).await {
            Ok(published) => published,
            Err(_) => Err(anyhow!("no answer within {PATIENCE:?}")),
        };
        let count = announcements.len() as u64;
        match published {
            Ok(()) => self.metrics.announced(count),
            Err(error) => {
                self.metrics.not_announced(count);
                warn!("could not announce a change over NATS; gateways find it within 60 s: {error:#}");
            }
        }
    }

    async fn publish(&self, announcements: &[Announcement]) -> Result<()> {
        let client = self.connection().await?;
        for announcement in announcements {
            let payload = serde_json::to_vec(announcement)?;
            client.publish(announcement.subject(), payload.into()).await?;
        }
        if client.connection_state() != State::Connected {
            bail!("not connected; the announcement is sent when NATS is back");
        }
        // A command ends after this. Anything not yet sent would be lost.
        client.flush().await?;
        Ok(())
    }
}
