//! The whole system, with a fault proxy on every connection between a service and a server, and control of every process.

mod services;

use std::{
    collections::BTreeMap,
    ops::{Deref, DerefMut},
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use devstack::{
    ClickHouse, ClickHouseOptions, DataDir, Nats, NatsOptions, Postgres, PostgresOptions, Server, Service,
    StripeDouble, StripeDoubleOptions, admin::Admin, upstream::Upstream,
};
use sqlx::PgPool;
use tokio::sync::Mutex;

use super::{
    plan::{self, Part, Store, Targets},
    proxy::Proxy,
};

/// Settings of the suite that shorten periods that take minutes in production.
pub const DEAD_AFTER: Duration = Duration::from_secs(6);
pub const SHARDS: u16 = 4;

/// A service that faults can act on. A fault holds the lock while it acts.
pub struct Handle {
    pub service: Mutex<Service>,
    /// The service should run: the keeper restarts it if it does not.
    pub wanted: AtomicBool,
}

/// One of the three servers.
pub type Running = Box<dyn DerefMut<Target = Server> + Send>;

/// The system and its data. The data outlives the system if it is kept.
pub struct System {
    pub reach: Arc<Reach>,
    pub data: DataDir,
}

/// Everything that faults can act on. Fields are dropped in order: services before servers.
pub struct Reach {
    pub services: BTreeMap<Part, Arc<Handle>>,
    pub links: BTreeMap<(Part, Store), Proxy>,
    pub gateways: Vec<String>,
    /// The admin API of each billing worker.
    pub admins: Vec<Admin>,
    pub billing_url: String,
    pub stripe: StripeDouble,
    pub upstream: Upstream,
    pub database: PgPool,
    pub clickhouse: clickhouse::Client,
    pub servers: BTreeMap<Store, Mutex<Running>>,
    pub nats_url: String,
    pub clickhouse_url: String,
    pub env: services::Env,
    dir: PathBuf,
}

impl System {
    /// Starts everything and waits until all parts are ready. `exe` runs as `<exe> service <name>`.
    pub async fn start(exe: PathBuf, targets: &Targets) -> Result<Self> {
        for name in ["NATS_URL", "DATABASE_URL", "CLICKHOUSE_URL"] {
            ensure!(
                std::env::var_os(name).is_none(),
                "{name} is set, but this suite kills servers, so it must start its own"
            );
        }
        devstack::wheels::install().await?;
        let data = DataDir::create()?;
        let dir = |name: &str| data.path().join(name);
        let (nats_dir, postgres_dir, clickhouse_dir) = (dir("nats"), dir("postgres"), dir("clickhouse"));
        let (nats_options, postgres_options) = (NatsOptions::default(), PostgresOptions::default());
        let clickhouse_options = ClickHouseOptions::default();
        let (nats, postgres, clickhouse_server) = tokio::try_join!(
            Nats::start(&nats_dir, &nats_options),
            Postgres::start(&postgres_dir, &postgres_options),
            ClickHouse::start(&clickhouse_dir, &clickhouse_options),
        )?;
        let database_url = postgres.create_database("faults").await?;
        let stripe = StripeDouble::start(StripeDoubleOptions::default()).await?;
        let upstream = Upstream::start().await?;

        let mut links = BTreeMap::new();
        for part in targets.parts() {
            for store in plan::links(part) {
                let url = match store {
                    Store::Nats => nats.url(),
                    Store::Postgres => postgres.url(),
                    Store::ClickHouse => clickhouse_server.url(),
                };
                links.insert((part, *store), Proxy::start(port_of(url)?).await?);
            }
        }
        let env = services::Env::new(exe, data.path(), &database_url, &links, &stripe, &upstream)?;
        let started = services::start_all(&env, targets, &stripe).await?;
        let reach = Reach {
            services: started.services,
            links,
            gateways: started.gateways,
            admins: started.admins,
            billing_url: started.billing_url,
            stripe,
            upstream,
            database: PgPool::connect_lazy(&database_url)?,
            clickhouse: clickhouse_server.client().with_database("faults"),
            nats_url: nats.url().to_owned(),
            clickhouse_url: clickhouse_server.url().to_owned(),
            servers: [
                (Store::Nats, Mutex::new(Box::new(nats) as Running)),
                (Store::Postgres, Mutex::new(Box::new(postgres))),
                (Store::ClickHouse, Mutex::new(Box::new(clickhouse_server))),
            ]
            .into(),
            env,
            dir: data.path().to_owned(),
        };
        Ok(Self {
            reach: Arc::new(reach),
            data,
        })
    }
}

impl Deref for System {
    type Target = Reach;

    fn deref(&self) -> &Reach {
        &self.reach
    }
}

impl Reach {
    /// The file that sets the clock offset of a gateway.
    pub fn clock_file(&self, gateway: usize) -> PathBuf {
        clock_file(&self.dir, gateway)
    }
}

fn clock_file(dir: &Path, gateway: usize) -> PathBuf {
    dir.join(format!("gateway-{gateway}.clock"))
}

/// The address in a URL of the suite. All of them are on 127.0.0.1 with an explicit port.
fn port_of(url: &str) -> Result<std::net::SocketAddr> {
    let uri: http::Uri = url.parse().with_context(|| format!("reading {url}"))?;
    let port = uri.port_u16().with_context(|| format!("{url} names no port"))?;
    Ok((std::net::Ipv4Addr::LOCALHOST, port).into())
}

/// The URL through which a service reaches a server: its own proxy.
fn through(links: &BTreeMap<(Part, Store), Proxy>, part: Part, store: Store) -> String {
    links[&(part, store)].address().to_string()
}
