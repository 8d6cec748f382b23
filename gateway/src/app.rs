//! The service: starts in order, serves, drains, stops.
//!
//! Each step of a stop needs the parts that stop after it:
//! 1. Requests in progress are answered. They need lanes and units.
//! 2. The lanes publish their events and are closed.
//! 3. All leases are returned.
//! 4. The run is closed.
//!
//! The admin port answers until the end, so that operators can watch the drain. If NATS is unavailable, the drain waits for the
//! spool until shortly before the deadline. Then the spool stays for the next start, which publishes it first.

mod keeper;
mod recording_health;

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use axum::{Router, extract::Request};
use lane::{
    link::Link,
    metrics::LaneMetrics,
    run::{Run, Runs},
    spool::Spool,
};
use prometheus_client::registry::Registry;
use service::{
    Health, Lifecycle,
    boot::{self, Mistakes, Task},
    server::Server,
    settings::ServiceSettings,
};
use tokio::{
    task::JoinHandle,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tracing::{info, warn};

use crate::{
    accounts::{Accounts, announcements, refresh},
    clock::{self, Clocks, watch},
    config::{Config, Settings},
    http::{
        gateway::{Gateway, Parts},
        router,
        under_way::UnderWay,
    },
    quota::{quotas::Quotas, recall},
    recording::{
        current_run::CurrentRun,
        publisher::{Publisher, Queues},
    },
};

/// How long the last background tasks may take to stop.
const LAST_WAIT: Duration = Duration::from_secs(5);

pub struct GatewayService;

impl boot::Service for GatewayService {
    const NAME: &'static str = "gateway";
    type Arguments = Settings;
    type Config = Config;
    type Application = Application;

    fn settings(settings: &mut Settings) -> &mut ServiceSettings {
        &mut settings.service
    }

    fn check(settings: Settings, mistakes: &mut Mistakes) -> Option<Task<Config>> {
        Config::check(settings, mistakes).map(Task::Serve)
    }

    async fn build(config: Config) -> Result<Application> {
        Application::build(config).await
    }
}

/// The service with its ports bound, before anything else is started.
pub struct Application {
    config: Config,
    /// Locked by this process.
    spool: Option<Spool>,
    server: Server,
    admin: Server,
    /// Tasks that take requests: stop first.
    life: Lifecycle,
    /// Tasks that requests and the drain need: stop last.
    ground: Lifecycle,
}

/// The parts of the started service.
struct Started {
    router: Router,
    under_way: Arc<UnderWay>,
    /// Requests in progress, including those whose client left. Stopping this lifecycle cuts them off.
    requests: Lifecycle,
    publisher: Publisher,
    quotas: Quotas,
    /// Replaces a fenced run. When `keeper_stop` is cancelled, it returns the last run.
    keeper: JoinHandle<Result<Option<Run>>>,
    keeper_stop: CancellationToken,
}

impl Application {
    /// Binds both ports and locks the spool. Connections to the public port are refused until the service serves.
    pub async fn build(config: Config) -> Result<Self> {
        let spool = match config.spool_settings() {
            Some(settings) => Some(tokio::task::spawn_blocking(|| Spool::open(settings)).await??),
            None => None,
        };
        let limits = config.server_limits();
        // The same number again for upstream connections, and some spare files.
        service::open_files::raise(2 * limits.connections as u64 + 200);
        let service = &config.settings.service;
        let server = Server::bind(config.settings.listen, "--listen, GATEWAY_LISTEN", limits, service)?;
        let admin = service::admin::bind(service)?;
        Ok(Self {
            config,
            spool,
            server,
            admin,
            life: Lifecycle::new(),
            ground: Lifecycle::new(),
        })
    }

    /// The address of the public port.
    pub fn address(&self) -> Result<SocketAddr> {
        self.server.address()
    }

    pub fn admin_address(&self) -> Result<SocketAddr> {
        self.admin.address()
    }
}

impl boot::Application for Application {
    fn life(&self) -> Lifecycle {
        self.life.clone()
    }

    async fn run_until_stopped(self) -> Result<()> {
        let Self {
            config,
            spool,
            server,
            admin,
            life,
            ground,
        } = self;
        let drain_within = config.settings.service.shutdown_deadline;
        let health = Health::new();
        health.down("gateway", "starting");
        life.show_end(&health, "gateway");
        let pages = Arc::new(OnceLock::new());
        service::admin::serve(&ground, admin, admin_pages(&health, &pages))?;

        let stopping = life.token();
        // If a vital part such as the admin port fails, the whole service stops.
        life.spawn({
            let (life, ground) = (life.clone(), ground.clone());
            async move {
                tokio::select! {
                    () = ground.stopping() => life.stop(),
                    () = life.stopping() => {}
                }
            }
        });
        let mut registry = Registry::default();
        server.metrics().register(registry.sub_registry_with_prefix("gateway"));
        let starting = start(config, spool.clone(), &life, &ground, &health, &mut registry);
        let result = match stopping.run_until_cancelled(starting).await {
            Some(Ok(started)) => {
                pages.set(service::admin::router(health.clone(), registry)).ok();
                serve(started, server, &life, &health, drain_within).await
            }
            Some(Err(failure)) => Err(failure),
            // Stopped before it served, so it has only the spool of an earlier process.
            None => match spool.as_ref().map(Spool::has_runs).transpose()? {
                Some(true) => Err(anyhow!("the spool was not drained: the next start drains it")),
                _ => Ok(()),
            },
        };
        life.stop();
        ground.stop();
        let finished = ground.finished(LAST_WAIT).await;
        result.and(finished)?;
        info!("stopped");
        Ok(())
    }
}

/// Starts all parts in the order of their dependencies. Waits for servers that are not available yet.
async fn start(
    config: Config,
    spool: Option<Spool>,
    life: &Lifecycle,
    ground: &Lifecycle,
    health: &Health,
    registry: &mut Registry,
) -> Result<Started> {
    let name = &config.gateway_name;
    // With a spool, the service is ready even if NATS is unavailable.
    let nats_health = match spool {
        Some(_) => Health::new(),
        None => health.clone(),
    };
    let (client, pool) = tokio::try_join!(
        service::nats::connect(&config.settings.nats, name, &nats_health),
        service::postgres::connect(&config.settings.postgres, name, health),
    )?;
    ground.spawn(service::postgres::watch(
        pool.clone(),
        health.clone(),
        ground.clone(),
        |health, part| health.replaced(part, "unavailable, using the units and keys that this gateway has"),
    ));
    let clocks = Clocks::new(health.clone(), registry);
    clock::follow();
    watch::first(&clocks, &pool, &client).await;
    ground.spawn(watch::follow(
        clocks.clone(),
        pool.clone(),
        client.clone(),
        config.settings.lanes.heartbeat_interval,
        ground.clone(),
    ));
    let link = Link::watch(&client, ground);
    if let Some(spool) = &spool {
        spool
            .metrics()
            .register(registry.sub_registry_with_prefix("gateway_spool"));
        ground.spawn(recording_health::report(
            link.clone(),
            spool.clone(),
            health.clone(),
            ground.token(),
        ));
    }
    let publisher = Publisher::new(link.clone());
    registry.register_collector(Box::new(Queues(publisher.clone())));
    // Quotas outlive the requests: their leases are returned after the lanes are closed.
    let quotas = Quotas::new(
        pool.clone(),
        client.clone(),
        link.clone(),
        &clocks,
        config.quota_settings(),
        registry,
        ground,
    );
    let accounts = Accounts::new(
        pool.clone(),
        config.catalogue.clone(),
        config.account_settings(),
        &quotas,
        registry,
    );
    refresh::follow(accounts.clone(), life);
    announcements::follow(client.clone(), accounts.clone(), life);
    recall::follow(client.clone(), &quotas, ground);

    let lane_metrics = LaneMetrics::default();
    lane_metrics.register(registry.sub_registry_with_prefix("gateway_lane"));
    let runs = Runs {
        name: name.clone(),
        limits: config.run_limits(),
        metrics: lane_metrics,
        pool,
        client,
        link,
        health: health.clone(),
        life: ground.clone(),
        spool,
    };
    runs.drain_what_is_left().await?;
    let (run, lanes) = runs.begin().await?;
    publisher.install(lanes);
    quotas.start_run(run.id);
    let (run_changes, current_run) = CurrentRun::new(run.id, config.settings.lanes.outcome_deadline);
    let keeper_stop = CancellationToken::new();
    let keeper = ground.spawn(keeper::keep(
        runs,
        run,
        keeper::Parts {
            publisher: publisher.clone(),
            quotas: quotas.clone(),
            accounts: accounts.clone(),
        },
        run_changes,
        life.clone(),
        keeper_stop.clone(),
    ));
    let requests = Lifecycle::new();
    let parts = Parts {
        accounts,
        quotas: quotas.clone(),
        publisher: publisher.clone(),
        current_run,
        clocks,
        catalogue: config.catalogue,
        routes: config.routes,
        upstream: config.upstream,
    };
    let gateway = Gateway::new(parts, config.settings.http, requests.clone(), registry);
    Ok(Started {
        under_way: Arc::clone(&gateway.under_way),
        router: router::router(Arc::new(gateway)),
        requests,
        publisher,
        quotas,
        keeper,
        keeper_stop,
    })
}

/// Serves until a stop is requested, then drains.
async fn serve(
    started: Started,
    server: Server,
    life: &Lifecycle,
    health: &Health,
    drain_within: Duration,
) -> Result<()> {
    let requests = started.requests;
    let mut serving = life.spawn(server.listen()?.run(started.router, life.token(), requests.token()));
    if !life.is_leaving() {
        health.up("gateway");
    }
    info!("serving");
    life.stopping().await;

    let began = Instant::now();
    let deadline = began + drain_within;
    // Requests get two thirds of the time. The rest is for lanes, leases and the run.
    let answering = async {
        (&mut serving).await.context("serving")?;
        requests.finished(drain_within).await
    };
    let answered = match timeout_at(began + drain_within * 2 / 3, answering).await {
        Ok(answered) => answered,
        Err(_) => {
            // A streamed response was recorded before its head was sent, so cutting it loses nothing. The tasks of `requests`
            // are requests whose clients left.
            let streams = started.under_way.streams();
            let lost = started.under_way.unanswered() > 0 || requests.finished(Duration::ZERO).await.is_err();
            requests.stop();
            // The server may have ended already, while requests of clients that left still run.
            if !serving.is_finished() {
                serving.await.ok();
            }
            if streams > 0 {
                info!(streams, "cut open streams at the deadline: their requests are recorded");
            }
            match lost {
                true => Err(anyhow!("requests without a response were cut off at the deadline")),
                false => Ok(()),
            }
        }
    };
    let drain = drain(
        started.publisher,
        started.quotas,
        started.keeper,
        started.keeper_stop,
        // If the lanes do not close in time, the last tenth is for the leases.
        deadline - drain_within / 10,
    );
    let drained = match timeout_at(deadline, drain).await {
        Ok(drained) => drained,
        Err(_) => Err(anyhow!(
            "the deadline passed before all was recorded and returned: another service settles the run"
        )),
    };
    let finished = life.finished(LAST_WAIT).await;
    let left = [answered, drained, finished].into_iter().filter_map(Result::err);
    let left: Vec<String> = left
        .inspect(|failure| warn!("stopping: {failure:#}"))
        .map(|failure| format!("{failure:#}"))
        .collect();
    match left.is_empty() {
        true => Ok(()),
        false => bail!("the shutdown is incomplete: {}", left.join("; ")),
    }
}

/// Closes the lanes, returns the leases and closes the run. Called after the last request.
async fn drain(
    publisher: Publisher,
    quotas: Quotas,
    keeper: JoinHandle<Result<Option<Run>>>,
    keeper_stop: CancellationToken,
    lanes_deadline: Instant,
) -> Result<()> {
    keeper_stop.cancel();
    publisher.remove();
    let Some(mut run) = keeper.await.context("keeping a run")?? else {
        quotas.drop_run();
        quotas.return_all().await;
        bail!("the last run was fenced: another service settles it");
    };
    match timeout_at(lanes_deadline, run.lanes_closed()).await {
        Ok(Ok(())) => {
            quotas.return_all().await;
            run.close().await
        }
        Ok(Err(failure)) => {
            quotas.drop_run();
            quotas.return_all().await;
            Err(failure)
        }
        Err(_) => match run.leave().await {
            0 => bail!("the deadline passed before all was recorded: another service settles the run"),
            batches => {
                // Acknowledged events are in the spool, and their units are spent. All other units are returned.
                quotas.return_all().await;
                bail!(
                    "NATS is unavailable: {batches} acknowledged batches are left in the spool; start the gateway again with this spool"
                )
            }
        },
    }
}

/// The pages of the admin port. They are served from the start; metrics are added once they exist.
fn admin_pages(health: &Health, pages: &Arc<OnceLock<Router>>) -> Router {
    let (early, pages) = (
        service::admin::router(health.clone(), Registry::default()),
        pages.clone(),
    );
    Router::new().fallback(move |request: Request| pages.get().unwrap_or(&early).clone().oneshot(request))
}
