//! NATS, ClickHouse or PostgreSQL is unavailable when a run must be ended and settled. The run is settled later.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use clickhouse::Client as ClickHouse;
use devstack::{
    DataDir, Server, Servers,
    admin::Customer,
    http::Http,
    servers::ServersOptions,
    system::{Endpoints, System, SystemOptions},
};
use harness::eventually;
use sqlx::PgPool;

use super::rig::{History, accepted, load, options, runs, until_settled};
use crate::SERVICES;

/// A system with its own servers. Fields are dropped in order: services before servers.
struct Own {
    system: System,
    servers: Servers,
    pool: PgPool,
    clickhouse: ClickHouse,
    ada: Customer,
    history: History,
}

impl Own {
    async fn start() -> Self {
        let servers = Servers::start(DataDir::create().unwrap(), &ServersOptions::default())
            .await
            .unwrap();
        let database_url = servers.postgres.create_database("own").await.unwrap();
        let endpoints = Endpoints {
            nats_url: servers.nats.url().to_owned(),
            database_url: database_url.clone(),
            clickhouse_url: servers.clickhouse.url().to_owned(),
            clickhouse_database: "own".to_owned(),
        };
        let settings = options(2);
        let mut system = SystemOptions::new(servers.data().path().to_owned());
        system.exe = Some(SERVICES.into());
        system.gateways = settings.gateways;
        system.gateway_env = settings.gateway_env;
        system.ingestor_env = settings.ingestor_env;
        system.billing_env = settings.billing_env;
        let system = System::start(endpoints, system).await.unwrap();
        let ada = system.admin.customer("ada", "enterprise").await.unwrap();
        Self {
            pool: PgPool::connect_lazy(&database_url).unwrap(),
            clickhouse: servers.clickhouse.client().with_database("own"),
            system,
            servers,
            ada,
            history: History::default(),
        }
    }

    fn urls(&self) -> Vec<String> {
        self.system.gateways.iter().map(|gateway| gateway.url.clone()).collect()
    }

    async fn units(&self) -> Option<i64> {
        let sum = self.clickhouse.query("select sum(cost_units) from usage_events");
        sum.fetch_one().await.ok()
    }

    /// Kills the first gateway under load and stops the server immediately. Starts the server again when `long_enough` returns.
    /// Then exactly that run is settled, and the run of the other gateway continues.
    async fn settled_after(&mut self, server: fn(&mut Servers) -> &mut Server, long_enough: impl AsyncFnOnce(&PgPool)) {
        let before = runs(&self.pool, "live").await;
        let (stop, urls) = (AtomicBool::new(false), self.urls());
        let more = self.history.accepted.load(Relaxed) + 200;
        let killing = async {
            accepted(&self.history, more).await;
            self.system.gateways[0].service.kill().await.unwrap();
            server(&mut self.servers).kill().await.unwrap();
            stop.store(true, Relaxed);
        };
        tokio::join!(killing, load(&urls, 4, &self.ada, &self.history, &stop));
        long_enough(&self.pool).await;
        server(&mut self.servers).restart().await.unwrap();
        let dead = eventually("one of the runs is settled", async || {
            let settled = runs(&self.pool, "settled").await;
            settled.into_iter().find(|run| before.contains(run))
        })
        .await;
        until_settled(&self.pool, dead).await;
        eventually("the granted units are stored", async || {
            let query = "select (select sum(granted_units)::bigint from quota_pool),
                                (select count(*) from quota_leases where state = 'live')";
            let (granted, live): (i64, i64) = sqlx::query_as(query).fetch_one(&self.pool).await.ok()?;
            (live == 0 && granted == self.units().await?).then_some(())
        })
        .await;
        let live = runs(&self.pool, "live").await;
        assert_eq!(live.len(), 1);
        assert!(before.contains(&live[0]), "the other gateway continues in its run");
        self.system.gateways[0].service.restart().await.unwrap();
    }
}

/// Waits until the run is found dead, while a server that settling needs is unavailable.
async fn until_fencing(pool: &PgPool) {
    eventually("the run is being ended", async || {
        (!runs(pool, "fencing").await.is_empty()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unavailable_server_only_postpones_settling() {
    let mut own = Own::start().await;
    own.settled_after(|servers| &mut servers.clickhouse, until_fencing)
        .await;
    own.settled_after(|servers| &mut servers.nats, until_fencing).await;
    // Without PostgreSQL no heartbeat advances, and no run is presumed dead because of that. The gateways notice it after five
    // seconds or more, which is longer than DEAD_AFTER. They stay ready, because they still have units.
    let ready: Vec<_> = own
        .system
        .gateways
        .iter()
        .map(|gateway| gateway.service.admin_url())
        .collect();
    let says = async |line: &str| {
        eventually(&format!("a ready gateway says `{line}`"), async || {
            for url in &ready {
                let answer = Http::default().get(&format!("{url}/readyz"), "").await;
                let Ok(answer) = answer else { continue };
                if answer.status == 200 && String::from_utf8_lossy(&answer.body).contains(line) {
                    return Some(());
                }
            }
            None
        })
        .await;
    };
    let longer_than_dead_after = async |_: &PgPool| says("postgres: unavailable").await;
    own.settled_after(|servers| &mut servers.postgres, longer_than_dead_after)
        .await;
    says("postgres: ok").await;
}
