//! Starts and stops the service.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use async_nats::Client as Nats;
use clickhouse::Client as ClickHouse;
use prometheus_client::registry::Registry;
use schema::names;
use service::{Backoff, Health, Lifecycle, admin, telemetry};
use tokio::{
    net::TcpListener,
    sync::{Mutex, Notify, Semaphore},
};
use tracing::{info, warn};

use crate::{
    alarms::Alarms,
    config::{Cli, Command, Settings},
    generation,
    ingest::{Budget, Ingest, Owned},
    manifests::Manifests,
    metrics::Metrics,
    migrate,
    pipeline::{sink::Sink, store::Store, verify::Verifier},
    shards::{assign, members::Members},
    stream::UsageStream,
    upkeep::{
        audit::{self, Audit},
        close_days, trim,
    },
};

/// How long JetStream may take to become ready after NATS answers.
const JETSTREAM_WITHIN: Duration = Duration::from_secs(60);

/// Runs the sub-command.
pub async fn run(cli: Cli) -> Result<()> {
    telemetry::init(&cli.settings.service)?;
    let settings = cli.settings;
    match cli.command.unwrap_or(Command::Run) {
        Command::Run => serve(settings).await,
        Command::Migrate => migrate_all(settings).await,
        Command::Audit => audit_everything(settings).await,
        Command::RaiseGeneration => raise_generation(settings).await,
    }
}

async fn serve(settings: Settings) -> Result<()> {
    let life = Lifecycle::new();
    life.stop_on_signals()?;
    let health = Health::new();
    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry);
    let addr = settings.service.admin_addr;
    let listener = TcpListener::bind(addr)
        .await
        .with_context(|| format!("binding the admin port {addr}"))?;
    info!(addr = %listener.local_addr()?, "admin port");
    admin::serve(&life, listener, admin::router(health.clone(), registry));

    let deadline = settings.service.shutdown_deadline;
    let started = tokio::select! {
        started = start(&life, &health, metrics, settings) => started,
        () = life.stopping() => Ok(()),
    };
    if started.is_ok() {
        life.stopping().await;
    }
    life.stop();
    let finished = life.finished(deadline).await;
    started.and(finished)?;
    info!("stopped");
    Ok(())
}

/// Returns when everything runs.
async fn start(life: &Lifecycle, health: &Health, metrics: Metrics, settings: Settings) -> Result<()> {
    health.down("shards", "starting");
    let parts = connect(&settings, health, metrics.clone()).await?;
    if settings.migrate {
        migrate::run(&parts.clickhouse, &settings.tables).await?;
    }
    let manifests = Manifests::new(parts.stream.bucket(names::MANIFEST_BUCKET).await?);
    let members = Members::new(parts.stream.bucket(names::MEMBER_BUCKET).await?, settings.member_ttl);
    let audit = parts.audit(manifests.clone(), &settings);
    let ingest = Arc::new(Ingest {
        life: life.clone(),
        manifests,
        me: members.me().to_owned(),
        members: Mutex::new(members),
        store: Store {
            sink: audit.sink.clone(),
            verifier: audit.verifier.clone(),
            metrics: metrics.clone(),
            health: health.clone(),
        },
        alarms: Alarms::new(health.clone(), metrics.clone()),
        metrics,
        owned: Owned::default(),
        budget: Budget::new(settings.batch.records_in_memory_max),
        inserts: Arc::new(Semaphore::new(usize::from(settings.inserts_at_once))),
        replays: Semaphore::new(1),
        audit_soon: Notify::new(),
        stream: parts.stream,
        settings,
    });
    info!(ingestor = %ingest.me, shards = ingest.stream.shards, "started");
    life.spawn_vital("shards", assign::run(Arc::clone(&ingest), health.clone()));
    life.spawn_vital("trim", trim::run(Arc::clone(&ingest)));
    life.spawn_vital(
        "close days",
        close_days::run(Arc::clone(&ingest), audit.verifier.client().clone()),
    );
    life.spawn_vital("audit", audit::run(ingest, audit));
    Ok(())
}

async fn migrate_all(settings: Settings) -> Result<()> {
    let parts = connect(&settings, &Health::new(), Metrics::new(&mut Registry::default())).await?;
    migrate::run(&parts.clickhouse, &settings.tables).await?;
    info!(
        shards = parts.stream.shards,
        "the stream, the buckets and the tables are up to date"
    );
    Ok(())
}

async fn audit_everything(settings: Settings) -> Result<()> {
    let parts = connect(&settings, &Health::new(), Metrics::new(&mut Registry::default())).await?;
    let manifests = Manifests::new(parts.stream.bucket(names::MANIFEST_BUCKET).await?);
    let report = parts.audit(manifests, &settings).everything().await?;
    info!(
        records = report.records,
        rows = report.rows,
        missing = report.missing,
        doubled = report.doubled,
        left = report.left,
        "compared the stream with the stored rows"
    );
    if report.missing + report.doubled > 0 {
        bail!(
            "{} rows were missing and {} were doubled; {} are still wrong",
            report.missing,
            report.doubled,
            report.left
        );
    }
    Ok(())
}

async fn raise_generation(settings: Settings) -> Result<()> {
    let parts = connect(&settings, &Health::new(), Metrics::new(&mut Registry::default())).await?;
    let manifests = Manifests::new(parts.stream.bucket(names::MANIFEST_BUCKET).await?);
    let verifier = Verifier::new(parts.clickhouse, settings.tables.clickhouse_cluster.as_deref());
    let generation = generation::raise(&parts.stream, &manifests, &verifier, &parts.metrics).await?;
    info!(generation, "raised the generation: ingest continues");
    Ok(())
}

struct Parts {
    stream: UsageStream,
    clickhouse: ClickHouse,
    metrics: Metrics,
}

impl Parts {
    fn audit(&self, manifests: Manifests, settings: &Settings) -> Audit {
        let cluster = settings.tables.clickhouse_cluster.as_deref();
        Audit {
            stream: self.stream.clone(),
            manifests,
            verifier: Verifier::new(self.clickhouse.clone(), cluster),
            sink: Sink::new(self.clickhouse.clone(), settings.insert_timeout, cluster),
            metrics: self.metrics.clone(),
            duplicates: settings.duplicates,
        }
    }
}

async fn connect(settings: &Settings, health: &Health, metrics: Metrics) -> Result<Parts> {
    let (nats, clickhouse) = tokio::try_join!(
        service::nats::connect(&settings.nats, "ingestor", health),
        service::clickhouse::connect(&settings.clickhouse, health),
    )?;
    Ok(Parts {
        stream: ensure_stream(&nats, settings).await?,
        clickhouse,
        metrics,
    })
}

/// Retries, because JetStream may not be ready yet if NATS has just started.
async fn ensure_stream(nats: &Nats, settings: &Settings) -> Result<UsageStream> {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    let ensure = async {
        loop {
            match UsageStream::ensure(nats, settings).await {
                Ok(stream) => return stream,
                Err(error) => {
                    let delay = backoff.next_delay();
                    warn!("could not create the streams yet, retrying in {delay:.1?}: {error:#}");
                    tokio::time::sleep(delay).await;
                }
            }
        }
    };
    tokio::time::timeout(JETSTREAM_WITHIN, ensure)
        .await
        .with_context(|| format!("NATS could not create the streams within {JETSTREAM_WITHIN:?} (see the log)"))
}
