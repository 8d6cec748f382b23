//! The system under load: one gateway, one ingestor, and customers that never reach their limits.

use std::time::Duration;

use anyhow::{Context, Result};
use devstack::{
    DataDir, Servers, ServersOptions,
    admin::Customer,
    system::{Endpoints, System, SystemOptions},
};

pub(crate) struct BenchSystem {
    pub system: System,
    pub servers: Servers,
    pub customers: Vec<Customer>,
}

/// More than any run spends.
const LIMIT: i64 = 1_000_000_000_000;

pub(crate) async fn start() -> Result<BenchSystem> {
    let servers = Servers::start(DataDir::create()?, &ServersOptions::default()).await?;
    let name = "bench".to_owned();
    let endpoints = Endpoints {
        nats_url: servers.nats.url().to_owned(),
        database_url: servers.postgres.create_database(&name).await?,
        clickhouse_url: servers.clickhouse.url().to_owned(),
        clickhouse_database: name,
    };
    let system = System::start(endpoints, SystemOptions::new(servers.data().path().to_owned())).await?;
    let mut customers = Vec::new();
    // Several customers, so that several lanes are used, as in production.
    for name in ["ada", "ben", "cleo", "dan", "eve", "finn", "gus", "hal"] {
        let customer = system.admin.customer(name, "enterprise").await?;
        system.admin.set_limit(customer.account_id, "api_call", LIMIT).await?;
        customers.push(customer);
    }
    Ok(BenchSystem {
        system,
        servers,
        customers,
    })
}

impl BenchSystem {
    /// Host and port of the gateway.
    pub(crate) fn gateway(&self) -> &str {
        self.system.gateways[0].url.trim_start_matches("http://")
    }

    /// Host and port of the upstream.
    pub(crate) fn upstream(&self) -> Result<&str> {
        Ok(self
            .system
            .upstream
            .as_ref()
            .context("the system has an upstream")?
            .url()
            .trim_start_matches("http://"))
    }

    pub(crate) fn clickhouse(&self) -> clickhouse::Client {
        self.servers
            .clickhouse
            .client()
            .with_database(&self.system.endpoints.clickhouse_database)
    }

    pub(crate) async fn postgres_version(&self) -> Result<String> {
        use sqlx::Connection;
        let mut connection = sqlx::PgConnection::connect(&self.system.endpoints.database_url).await?;
        let version: String = sqlx::query_scalar("show server_version")
            .fetch_one(&mut connection)
            .await?;
        Ok(version)
    }

    /// A counter of the gateway since its start.
    pub(crate) async fn metric(&self, name: &str) -> Result<u64> {
        self.system.gateways[0].service.metric(name).await
    }

    pub(crate) async fn stop_ingestor(&mut self) -> Result<()> {
        self.system.ingestors[0].stop(Duration::from_secs(40)).await.map(drop)
    }

    pub(crate) async fn start_ingestor(&mut self) -> Result<()> {
        self.system.ingestors[0].restart().await
    }

    pub(crate) async fn stop(mut self) -> Result<()> {
        self.system.stop().await?;
        drop(self.system);
        self.servers.stop().await
    }
}
