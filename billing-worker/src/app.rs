//! The service: starts in order, serves, drains, stops.

pub mod periodic;

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use anyhow::{Context, Result};
use prometheus_client::registry::Registry;
use schema::clock::Clock;
use service::{Health, Lifecycle, server::Listening};
use tokio::{net::TcpListener, sync::oneshot, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    administration::{Administration, By, announce::Announcer},
    config::Settings,
    corrections::{duplicates::Returns, work::Work},
    database,
    http::{
        admin::{self, AdminApi},
        public::{self, PublicApi},
    },
    metrics::Metrics,
    notices::{self, metrics::NoticeMetrics},
    reports::Reporter,
    runs::{self, work::Settler},
    stripe::Stripe,
    subscriptions::billing::Billing,
};

/// How long the start waits for NATS. The service works without it.
const NATS_PATIENCE: Duration = Duration::from_secs(2);

/// Runs until a signal arrives or a vital part fails.
pub async fn run(settings: &Settings) -> Result<()> {
    let life = Lifecycle::new();
    life.stop_on_signals()?;

    let (health, metrics) = (Health::new(), Metrics::default());
    health.down("service", "starting");
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    let notice_metrics = NoticeMetrics::default();
    notice_metrics.register(&mut registry);
    let administration = Arc::new(OnceLock::new());
    let admin_api = admin::router(AdminApi {
        token: settings.admin_token.as_deref().map(Into::into),
        administration: administration.clone(),
        metrics: metrics.clone(),
        notice_policy: settings.notices.policy,
    });
    let listener = bind(settings.service.admin_addr, "ADMIN_ADDR").await?;
    service::admin::serve(
        &life,
        listener,
        service::admin::router(health.clone(), registry).merge(admin_api),
    );

    let served = tokio::select! {
        served = start(settings, &life, &health, &metrics, &notice_metrics, &administration) => served,
        () = life.stopping() => Ok(()),
    };
    if served.is_ok() {
        life.stopping().await;
    }
    life.stop();
    let finished = life.finished(settings.service.shutdown_deadline).await;
    served.and(finished)?;
    info!("stopped");
    Ok(())
}

async fn start(
    settings: &Settings,
    life: &Lifecycle,
    health: &Health,
    metrics: &Metrics,
    notice_metrics: &NoticeMetrics,
    administration: &OnceLock<Administration>,
) -> Result<()> {
    let db = service::postgres::connect(&settings.postgres, "billing-worker", health).await?;
    let admin = Administration {
        db: db.clone(),
        catalogue: Arc::new(settings.catalogue.clone()),
        announcer: Announcer::of_service(metrics.clone()),
        clickhouse: service::clickhouse::client(&settings.clickhouse),
        corrections_wait: Arc::default(),
        by: By::Service,
        name: None,
    };
    connect_nats(settings, life, &admin.announcer).await;
    database::prepare(&admin, settings.migrate).await?;
    life.spawn(database::watch(db.clone(), health.clone(), life.clone()));
    let corrections = Work::new(&admin, metrics);
    life.spawn(corrections.run(life.clone()));
    let clickhouse = admin.clickhouse.clone();
    let (runs, counted) = (settings.settle.clone(), metrics.settle.clone());
    life.spawn(runs::watch::watch(
        db.clone(),
        runs.clone(),
        counted.clone(),
        life.clone(),
    ));
    life.spawn(Settler::new(&admin, runs, counted).run(life.clone()));
    notices::tasks::start(&settings.notices, &admin, clickhouse.clone(), notice_metrics, life);
    life.spawn(periodic::retain(db, clickhouse, admin.catalogue.clone(), life.clone()));
    life.spawn(periodic::refresh_limits(admin.clone(), life.clone()));
    let returns = Returns {
        db: admin.db.clone(),
        clickhouse: admin.clickhouse.clone(),
        announcer: admin.announcer.clone(),
    };
    life.spawn(periodic::return_duplicates(returns, metrics.clone(), life.clone()));

    let stripe = Stripe::new(&settings.stripe)?;
    let reporter = stripe.map(|stripe| {
        let (clickhouse, catalogue) = (admin.clickhouse.clone(), admin.catalogue.clone());
        let (reports, metrics) = (settings.reports.clone(), metrics.reports.clone());
        Reporter::new(admin.db.clone(), clickhouse, stripe, catalogue, reports, metrics)
    });
    let billing = Billing::new(admin.clone(), reporter, settings.billing.clone(), Clock::default());
    let api = PublicApi {
        billing: billing.by(By::Customer),
        metrics: metrics.clone(),
        inbox: Arc::default(),
        life: life.clone(),
    };
    let (stopped, stopping) = (billing.clone(), life.clone());
    life.spawn(async move {
        stopping.stopping().await;
        stopped.stop();
    });
    if billing.has_stripe() {
        life.spawn(periodic::check_stripe(billing.clone(), life.clone()));
        life.spawn(periodic::report(billing.clone(), life.clone()));
        let events = billing.by(By::Stripe);
        life.spawn(periodic::work_on_events(
            events.clone(),
            metrics.clone(),
            api.inbox.clone(),
            life.clone(),
        ));
        life.spawn(periodic::catch_up(events.clone(), life.clone()));
        life.spawn(periodic::compare(events, life.clone()));
    } else {
        warn!("starting without STRIPE_SECRET_KEY: no subscriptions, no billing");
    }

    if administration
        .set(Administration {
            by: By::AdminApi,
            ..admin
        })
        .is_err()
    {
        anyhow::bail!("the service was started twice");
    }
    let limits = settings.server.limits(&[]);
    service::open_files::raise(limits.connections as u64 + 200);
    let listener = bind(settings.listen, "BILLING_LISTEN").await?;
    let address = listener.local_addr().context("reading our own address")?;
    info!(%address, "serving the public API");
    let listening = Listening::of(listener, limits, metrics.server.clone());
    let stopping = life.token();
    let router = public::router(api);
    life.spawn_vital("public port", async move {
        listening.run(router, stopping, CancellationToken::new()).await;
        Ok(())
    });
    health.up("service");
    Ok(())
}

/// Connects to NATS in the background and waits for it briefly. Without NATS, gateways learn of changes later, but nothing here
/// fails. Only rejected credentials stop the service, because an operator must correct them.
async fn connect_nats(settings: &Settings, life: &Lifecycle, announcer: &Announcer) {
    let (nats, announcer, stopping) = (settings.nats.clone(), announcer.clone(), life.token());
    let (tried, connected) = oneshot::channel::<()>();
    life.spawn_vital("connection to NATS", async move {
        // NATS is not part of `/readyz`: a worker without NATS still serves requests.
        let health = Health::new();
        tokio::select! {
            client = service::nats::connect(&nats, "billing-worker", &health) => announcer.connected(client?),
            () = stopping.cancelled() => return Ok(()),
        }
        drop(tried);
        stopping.cancelled().await;
        Ok(())
    });
    // If the channel closes, the attempt is over. Only the time-out means that NATS did not answer.
    if timeout(NATS_PATIENCE, connected).await.is_err() {
        warn!("starting without NATS: gateways find changes within 60 s");
    }
}

async fn bind(address: SocketAddr, setting: &str) -> Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("listening on {address} ({setting})"))
}
