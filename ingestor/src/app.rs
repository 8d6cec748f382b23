//! Starts and stops the service.

use std::{
    io::{Write, stdout},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use async_nats::{Client as Nats, jetstream};
use clickhouse::Client as ClickHouse;
use prometheus_client::registry::Registry;
use schema::names;
use service::{
    Backoff, Health, Lifecycle, admin,
    boot::{self, Mistakes, Task},
    server::Server,
    settings::ServiceSettings,
};
use tokio::sync::{Mutex, Notify, Semaphore};
use tracing::{info, warn};

use crate::{
    alarms::Alarms,
    config::{Cli, Command, LossesArguments, Settings, StreamChange, StreamCommand},
    generation,
    ingest::{Budget, Ingest, Owned},
    manifests::Manifests,
    metrics::Metrics,
    migrate,
    pipeline::{sink::Sink, store::Store, verify::Verifier},
    shards::{assign, members::Members},
    stream::{UsageStream, create::Missing, set},
    tables::{Dropped, Tables},
    upkeep::{audit::Audit, close_days, command, hourly, losses, stalled, trim},
};

/// How long JetStream may take to become ready after NATS answers.
const JETSTREAM_WITHIN: Duration = Duration::from_secs(60);

pub struct Ingestor;

impl boot::Service for Ingestor {
    const NAME: &'static str = "ingestor";
    type Arguments = Cli;
    type Config = Settings;
    type Application = Application;

    fn settings(cli: &mut Cli) -> &mut ServiceSettings {
        &mut cli.settings.service
    }

    fn check(cli: Cli, _: &mut Mistakes) -> Option<Task<Settings>> {
        let settings = cli.settings;
        Some(match cli.command.unwrap_or(Command::Run) {
            Command::Run => Task::Serve(settings),
            Command::Migrate => Task::Command(Box::pin(migrate_all(settings))),
            Command::Audit => Task::Command(Box::pin(audit_everything(settings))),
            Command::RaiseGeneration => Task::Command(Box::pin(raise_generation(settings))),
            Command::Stream(StreamCommand::Set(change)) => Task::Command(Box::pin(set_stream(settings, change))),
            Command::Losses(arguments) => Task::Command(Box::pin(losses(settings, arguments))),
        })
    }

    async fn build(settings: Settings) -> Result<Application> {
        let admin = admin::bind(&settings.service)?;
        info!(addr = %admin.address()?, "admin port");
        Ok(Application {
            life: Lifecycle::new(),
            admin,
            settings,
        })
    }
}

/// The service, with its admin port bound.
pub struct Application {
    life: Lifecycle,
    admin: Server,
    settings: Settings,
}

impl boot::Application for Application {
    fn life(&self) -> Lifecycle {
        self.life.clone()
    }

    async fn run_until_stopped(self) -> Result<()> {
        let Self { life, admin, settings } = self;
        let health = Health::new();
        life.show_end(&health, "service");
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry);
        admin::serve(&life, admin, admin::router(health.clone(), registry))?;
        let deadline = settings.service.shutdown_deadline;
        life.run(start(&life, &health, metrics, settings), deadline).await
    }
}

/// Returns when everything runs.
async fn start(life: &Lifecycle, health: &Health, metrics: Metrics, settings: Settings) -> Result<()> {
    health.down("shards", "starting");
    let nats = service::nats::connect(&settings.nats, "ingestor", health);
    let clickhouse = service::clickhouse::connect(&settings.clickhouse, health);
    let parts = parts(
        tokio::try_join!(nats, clickhouse)?,
        &settings,
        Missing::Create,
        metrics.clone(),
    )
    .await?;
    let manifests = Manifests::new(parts.stream.bucket(names::MANIFEST_BUCKET).await?);
    let tables = parts.tables(manifests.clone(), &settings, health);
    match settings.migrate {
        true if !parts.stream.is_in_use().await? => migrate::run(&parts.clickhouse, &settings.tables).await?,
        true => {
            migrate::check_database(&parts.clickhouse).await?;
            tables.ensure().await?;
            migrate::update_tables(&parts.clickhouse, &settings.tables).await?;
        }
        false => migrate::check_database(&parts.clickhouse).await?,
    }
    let bucket = parts.stream.bucket(names::MEMBER_BUCKET).await?;
    let members = Members::new(bucket, parts.stream.member_ttl);
    let audit = parts.audit(manifests.clone(), &settings);
    let ingest = Arc::new(Ingest {
        life: life.clone(),
        manifests,
        me: members.me().to_owned(),
        members: Mutex::new(members),
        store: Store {
            sink: audit.sink.clone(),
            verifier: Verifier::new(parts.clickhouse.clone(), settings.tables.clickhouse_cluster.as_deref()),
            metrics: metrics.clone(),
            health: health.clone(),
        },
        tables,
        audit,
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
    let clickhouse = ingest.store.verifier.client().clone();
    info!(ingestor = %ingest.me, shards = ingest.stream.shards, "started");
    life.spawn_vital("shards", assign::run(Arc::clone(&ingest), health.clone()));
    let watched = service::clickhouse::watch(clickhouse.clone(), health.clone(), life.clone());
    life.spawn(watched);
    life.spawn_vital("stalled", stalled::run(Arc::clone(&ingest), health.clone()));
    life.spawn_vital("trim", trim::run(Arc::clone(&ingest)));
    life.spawn_vital("close days", close_days::run(Arc::clone(&ingest), clickhouse));
    life.spawn_vital("audit", hourly::run(ingest));
    Ok(())
}

async fn migrate_all(settings: Settings) -> Result<()> {
    let parts = connect_for_command(&settings, Missing::Create).await?;
    let manifests = Manifests::new(parts.stream.bucket(names::MANIFEST_BUCKET).await?);
    parts.tables(manifests, &settings, &Health::new()).migrate().await?;
    info!(
        shards = parts.stream.shards,
        "the stream, the buckets and the tables are up to date"
    );
    Ok(())
}

async fn audit_everything(settings: Settings) -> Result<()> {
    let parts = connect_for_command(&settings, Missing::Leave).await?;
    migrate::check_database(&parts.clickhouse).await?;
    let manifests = Manifests::new(parts.stream.bucket(names::MANIFEST_BUCKET).await?);
    let report = command::everything(&parts.audit(manifests, &settings)).await?;
    info!(
        records = report.records,
        rows = report.rows,
        missing = report.missing,
        doubled = report.doubled,
        left = report.left,
        repeated = report.repeated,
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
    if report.repeated > 0 {
        bail!(
            "{} rows repeat an event of another generation: these events count twice, and an audit does not remove them",
            report.repeated
        );
    }
    Ok(())
}

async fn raise_generation(settings: Settings) -> Result<()> {
    let parts = connect_for_command(&settings, Missing::Leave).await?;
    migrate::check_database(&parts.clickhouse).await?;
    let manifests = Manifests::new(parts.stream.bucket(names::MANIFEST_BUCKET).await?);
    let generation = generation::raise(&parts.audit(manifests, &settings)).await?;
    info!(generation, "raised the generation: ingest continues");
    Ok(())
}

async fn set_stream(settings: Settings, change: StreamChange) -> Result<()> {
    let health = Health::new();
    let nats = service::nats::connect(&settings.nats, "ingestor command", &health);
    let nats = boot::soon("NATS (NATS_URL)", nats).await?;
    set::set(&jetstream::new(nats), &settings, &change, &mut stdout()).await
}

async fn losses(settings: Settings, arguments: LossesArguments) -> Result<()> {
    let parts = connect_for_command(&settings, Missing::Leave).await?;
    let manifests = Manifests::new(parts.stream.bucket(names::MANIFEST_BUCKET).await?);
    let lines = losses::list(&manifests, parts.stream.shards).await?;
    if lines.is_empty() {
        writeln!(stdout(), "nothing is lost")?;
        return Ok(());
    }
    for line in &lines {
        writeln!(stdout(), "{line}")?;
    }
    if arguments.accept {
        losses::accept(&manifests, parts.stream.shards).await?;
        writeln!(stdout(), "accepted")?;
    }
    Ok(())
}

struct Parts {
    stream: UsageStream,
    clickhouse: ClickHouse,
    metrics: Metrics,
}

impl Parts {
    fn tables(&self, manifests: Manifests, settings: &Settings, health: &Health) -> Tables {
        Tables {
            client: self.clickhouse.clone(),
            settings: settings.tables.clone(),
            dropped: match settings.migrate {
                true => Dropped::CreateAgain,
                false => Dropped::Report,
            },
            manifests,
            shards: self.stream.shards,
            health: health.clone(),
            looking: Mutex::default(),
        }
    }

    fn audit(&self, manifests: Manifests, settings: &Settings) -> Audit {
        let cluster = settings.tables.clickhouse_cluster.as_deref();
        Audit {
            stream: self.stream.clone(),
            manifests,
            verifier: Verifier::new(self.clickhouse.clone(), cluster).without_projections(),
            sink: Sink::new(self.clickhouse.clone(), settings.insert_timeout, cluster),
            metrics: self.metrics.clone(),
            duplicates: settings.duplicates,
        }
    }
}

async fn connect_for_command(settings: &Settings, missing: Missing) -> Result<Parts> {
    let health = Health::new();
    let nats = service::nats::connect(&settings.nats, "ingestor command", &health);
    let clickhouse = service::clickhouse::connect(&settings.clickhouse, &health);
    let connections = tokio::try_join!(
        boot::soon("NATS (NATS_URL)", nats),
        boot::soon("ClickHouse (CLICKHOUSE_URL)", clickhouse),
    )?;
    parts(connections, settings, missing, Metrics::new(&mut Registry::default())).await
}

async fn parts(
    (nats, clickhouse): (Nats, ClickHouse),
    settings: &Settings,
    missing: Missing,
    metrics: Metrics,
) -> Result<Parts> {
    Ok(Parts {
        stream: open_stream(&nats, settings, missing).await?,
        clickhouse,
        metrics,
    })
}

/// Retries, because JetStream may not be ready yet if NATS has just started.
async fn open_stream(nats: &Nats, settings: &Settings, missing: Missing) -> Result<UsageStream> {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    let open = async {
        loop {
            match UsageStream::open(nats, settings, missing).await {
                Ok(stream) => return stream,
                Err(error) => {
                    let delay = backoff.next_delay();
                    warn!("could not open the streams yet, retrying in {delay:.1?}: {error:#}");
                    tokio::time::sleep(delay).await;
                }
            }
        }
    };
    tokio::time::timeout(JETSTREAM_WITHIN, open)
        .await
        .with_context(|| format!("NATS could not open the streams within {JETSTREAM_WITHIN:?} (see the log)"))?
        .context("NATS does not have all streams and buckets: start an ingestor, or run `ingestor migrate`")
}
