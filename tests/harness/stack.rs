//! The system of one test: its own NATS, its own database in the shared PostgreSQL and ClickHouse, and its own services.

use std::{
    ops::{Deref, DerefMut},
    path::PathBuf,
    sync::Arc,
};

use anyhow::Result;
use clickhouse::Row;
use devstack::{
    DataDir, Nats, NatsOptions, Servers,
    system::{Endpoints, System, SystemOptions},
};
use schema::AccountId;
use sqlx::PgPool;

use crate::wait::eventually;

/// The options of a test.
#[derive(Clone, Debug, Default)]
pub struct StackOptions {
    /// 0 means one.
    pub gateways: usize,
    /// 0 means one.
    pub ingestors: usize,
    pub upstream_url: Option<String>,
    /// Start the fake Stripe, too.
    pub stripe: bool,
    /// How far its clock is behind at its start.
    pub stripe_behind_s: i64,
    /// Start gateways without a spool.
    pub no_spool: bool,
    /// The text of the plan catalogue of gateways and billing workers; `None`: the built-in one. [`Stack::write_catalogue`] replaces
    /// it for the next start.
    pub catalogue: Option<String>,
    pub gateway_env: Vec<(&'static str, String)>,
    pub ingestor_env: Vec<(&'static str, String)>,
    pub billing_env: Vec<(&'static str, String)>,
}

/// The file of the catalogue, in the directory of the stack.
const CATALOGUE: &str = "plans.toml";

/// Fields are dropped in order: services before servers before data.
pub struct Stack {
    system: System,
    pub nats: Nats,
    pub pool: PgPool,
    pub clickhouse: clickhouse::Client,
    _servers: Arc<Servers>,
    pub data: DataDir,
}

/// The stored usage of an account.
#[derive(Clone, Debug, PartialEq, serde::Deserialize, Row)]
pub struct Sums {
    pub events: u64,
    pub distinct: u64,
    pub units: i64,
}

impl Stack {
    /// `services`: the executable (`env!("CARGO_BIN_EXE_services")`).
    pub async fn start(services: &str, options: StackOptions) -> Result<Self> {
        let servers = Servers::shared().await?;
        let data = DataDir::create()?;
        let nats = Nats::start(&data.path().join("nats"), &NatsOptions::default()).await?;
        let name = format!("test_{:016x}", rand::random::<u64>());
        let database_url = servers.postgres.create_database(&name).await?;
        let endpoints = Endpoints {
            nats_url: nats.url().to_owned(),
            database_url: database_url.clone(),
            clickhouse_url: servers.clickhouse.url().to_owned(),
            clickhouse_database: name.clone(),
        };
        let mut system = SystemOptions::new(data.path().to_owned());
        system.exe = Some(PathBuf::from(services));
        system.gateways = options.gateways.max(1);
        system.ingestors = options.ingestors.max(1);
        system.upstream_url = options.upstream_url;
        system.stripe = options.stripe;
        system.stripe_behind_s = options.stripe_behind_s;
        if options.no_spool {
            system.spool_dir = None;
        }
        system.nats_is_ours = true;
        system.gateway_env = options.gateway_env;
        system.ingestor_env = options.ingestor_env;
        system.billing_env = options.billing_env;
        if let Some(catalogue) = options.catalogue {
            let file = data.path().join(CATALOGUE);
            std::fs::write(&file, catalogue)?;
            system.plans_file = Some(file);
        }
        let system = System::start(endpoints, system).await?;
        if let Some(stripe) = &system.stripe {
            // Calls whose effect at Stripe is not certain are violations.
            stripe.control().set_strict(true);
        }
        let pool = PgPool::connect_lazy(&database_url)?;
        let clickhouse = servers.clickhouse.client().with_database(name);
        Ok(Self {
            system,
            nats,
            pool,
            clickhouse,
            _servers: servers,
            data,
        })
    }

    /// Replaces the catalogue file. Services that start from now on read this one.
    pub fn write_catalogue(&self, text: &str) -> Result<()> {
        Ok(std::fs::write(self.data.path().join(CATALOGUE), text)?)
    }

    /// URL of the n-th gateway, counted from 0.
    pub fn gateway(&self, n: usize) -> &str {
        &self.gateways[n].url
    }

    /// The stored usage of an account: rows, distinct events, units.
    pub async fn sums(&self, account: AccountId) -> Result<Sums> {
        let query = "select count() as events, uniqExact(event_id) as distinct, sum(cost_units) as units \
                     from usage_events where account_id = ?";
        Ok(self
            .clickhouse
            .query(query)
            .bind(account.0.to_string())
            .fetch_one()
            .await?)
    }

    /// The ledger check: waits until the account has `events` rows, then asserts that each event is stored once and that the
    /// units match.
    pub async fn assert_stored(&self, account: AccountId, events: u64, units: i64) {
        let sums = eventually(&format!("{events} events of {account} are stored"), async || {
            self.sums(account).await.ok().filter(|sums| sums.events >= events)
        })
        .await;
        assert_eq!(
            sums,
            Sums {
                events,
                distinct: events,
                units
            }
        );
    }
}

impl Deref for Stack {
    type Target = System;

    fn deref(&self) -> &System {
        &self.system
    }
}

impl DerefMut for Stack {
    fn deref_mut(&mut self) -> &mut System {
        &mut self.system
    }
}
