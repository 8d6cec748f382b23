//! The tables of ClickHouse while the ingestor works: finds those that were dropped, whatever `schema_migrations` says, and
//! creates them again.

use anyhow::Result;
use clickhouse::Client;
use schema::{
    Manifest,
    clickhouse::{EVENT_TABLES, SUM_TABLES},
};
use service::Health;
use tokio::sync::Mutex;
use tracing::{error, info};

use crate::{
    manifests::Manifests,
    migrate::{self, MigrateSettings},
    stop::Stop,
};

const PART: &str = "tables";

/// What to do with a table that was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    CreateAgain,
    /// An operator runs `ingestor migrate`.
    Report,
}

pub struct Tables {
    pub client: Client,
    pub settings: MigrateSettings,
    pub dropped: Dropped,
    pub manifests: Manifests,
    pub shards: u16,
    pub health: Health,
    /// One look at a time.
    pub looking: Mutex<()>,
}

impl Tables {
    /// Returns when all tables exist. A table of events that was dropped is empty afterwards, so all shards are marked: their
    /// owners store the rows again.
    pub async fn ensure(&self) -> Result<(), Stop> {
        let _looking = self.looking.lock().await;
        let dropped = match migrate::dropped(&self.client).await {
            Ok(dropped) => dropped,
            Err(trouble) => {
                self.health.down(PART, format!("{trouble:#}"));
                return Err(trouble.into());
            }
        };
        if dropped.is_empty() {
            self.health.up(PART);
            return Ok(());
        }
        let tables = dropped.join(", ");
        if self.dropped == Dropped::Report {
            let why = format!("ClickHouse does not have {tables} any more: run `ingestor migrate`");
            self.health.down(PART, &*why);
            return Err(Stop::Alarm(why));
        }
        error!(
            tables,
            "ClickHouse does not have these tables any more: creating them again"
        );
        if dropped.iter().any(|table| SUM_TABLES.contains(table)) {
            error!("the sums of closed days are lost: restore usage_daily and usage_closed_days from one backup");
        }
        self.mark(&dropped).await?;
        migrate::update_tables(&self.client, &self.settings).await?;
        info!(tables, "created the tables again");
        self.health.up(PART);
        Ok(())
    }

    /// Creates the database if it is missing, and creates or updates the tables, as `ingestor migrate` does.
    pub async fn migrate(&self) -> Result<()> {
        let dropped = match migrate::has_database(&self.client).await? {
            true => migrate::dropped(&self.client).await?,
            false => EVENT_TABLES.to_vec(),
        };
        self.mark(&dropped).await?;
        migrate::run(&self.client, &self.settings).await
    }

    /// Call it before the tables exist: whoever finds them must also find the marks.
    async fn mark(&self, dropped: &[&str]) -> Result<()> {
        if dropped.iter().any(|table| EVENT_TABLES.contains(table)) {
            for shard in 0..self.shards {
                self.manifests.change(shard, behind).await?;
            }
        }
        Ok(())
    }
}

/// Marks a manifest with stored records.
fn behind(manifest: Option<Manifest>) -> Option<Manifest> {
    let manifest = manifest.filter(|manifest| manifest.done_through > 0 && manifest.behind_from != Some(1))?;
    Some(Manifest {
        behind_from: Some(1),
        ..manifest
    })
}
