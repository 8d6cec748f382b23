//! The three servers together.
//!
//! The tests of a binary share one set ([`Servers::shared`]), and each test has its own databases. A test that kills or
//! pauses a server starts its own.

use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::sync::OnceCell;

use crate::{ClickHouse, ClickHouseOptions, DataDir, Nats, NatsOptions, Postgres, PostgresOptions, Server, wheels};

#[derive(Clone, Debug, Default)]
pub struct ServersOptions {
    pub nats: NatsOptions,
    pub postgres: PostgresOptions,
    pub clickhouse: ClickHouseOptions,
}

/// Fields are dropped in order, so the servers end before their data are removed.
#[derive(Debug)]
pub struct Servers {
    pub nats: Nats,
    pub postgres: Postgres,
    pub clickhouse: ClickHouse,
    data: DataDir,
}

impl Servers {
    /// Starts all three in parallel, or uses those that `NATS_URL`, `DATABASE_URL` and `CLICKHOUSE_URL` name.
    pub async fn start(data: DataDir, options: &ServersOptions) -> Result<Self> {
        if ["NATS_URL", "DATABASE_URL", "CLICKHOUSE_URL"]
            .iter()
            .any(|name| Server::existing(name).is_none())
        {
            wheels::install().await?; // once, before three servers wait for it
        }
        let dir = |name| data.path().join(name);
        let (nats_dir, postgres_dir, clickhouse_dir) = (dir("nats"), dir("postgres"), dir("clickhouse"));
        let (nats, postgres, clickhouse) = tokio::try_join!(
            Nats::existing_or_start(&nats_dir, &options.nats),
            Postgres::existing_or_start(&postgres_dir, &options.postgres),
            ClickHouse::existing_or_start(&clickhouse_dir, &options.clickhouse),
        )?;
        Ok(Self {
            nats,
            postgres,
            clickhouse,
            data,
        })
    }

    /// One set for this process. The first caller starts it, and the reaper ends it.
    pub async fn shared() -> Result<Arc<Self>> {
        static SHARED: OnceCell<Arc<Servers>> = OnceCell::const_new();
        let start = async || {
            Ok(Arc::new(
                Self::start(DataDir::create()?, &ServersOptions::default()).await?,
            ))
        };
        SHARED.get_or_try_init(start).await.cloned()
    }

    pub fn data(&self) -> &DataDir {
        &self.data
    }

    /// Stops all servers that we started, even if one fails to stop, and removes the data unless they are kept.
    pub async fn stop(mut self) -> Result<()> {
        let clickhouse = if self.clickhouse.is_ours() {
            self.clickhouse.stop().await.map(drop)
        } else {
            Ok(())
        };
        let postgres = if self.postgres.is_ours() {
            self.postgres.stop().await.map(drop)
        } else {
            Ok(())
        };
        let nats = if self.nats.is_ours() {
            self.nats.stop().await.map(drop)
        } else {
            Ok(())
        };
        clickhouse.and(postgres).and(nats).context("stopping the servers")
    }
}
