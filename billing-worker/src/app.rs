//! The service: starts in order, serves, drains, stops.

pub mod periodic;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use anyhow::Result;
use prometheus_client::registry::Registry;
use schema::clock::Clock;
use service::{
    Health, Lifecycle,
    boot::{self, Mistakes, Task},
    server::Server,
    settings::ServiceSettings,
};
use tokio::{sync::oneshot, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    administration::{Administration, By, announce::Announcer},
    cli::{self, Command, invocation::Arguments},
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
    stripe::{Class, Stripe},
    subscriptions::billing::Billing,
    webhook,
};

/// How long the start waits for NATS. The service works without it.
const NATS_PATIENCE: Duration = Duration::from_secs(2);

pub struct BillingWorker;

impl boot::Service for BillingWorker {
    const NAME: &'static str = "billing-worker";
    /// Users of a command want to see its result, not how it connected.
    const COMMAND_LOG_FILTER: &'static str = "warn,billing_worker=info";
    type Arguments = Arguments;
    type Config = Settings;
    type Application = Application;

    fn settings(arguments: &mut Arguments) -> &mut ServiceSettings {
        &mut arguments.settings.service
    }

    fn check(arguments: Arguments, mistakes: &mut Mistakes) -> Option<Task<Settings>> {
        let (mut settings, json) = (arguments.settings, arguments.json);
        settings.check(mistakes);
        match arguments.command {
            None | Some(Command::Run) => {
                settings.check_service(mistakes);
                Some(Task::Serve(settings))
            }
            Some(command) if command.needs_sandbox() && !settings.stripe.is_sandbox() => {
                let problem = "must be the key of a sandbox (sk_test_… or rk_test_…): a rehearsal makes customers and charges cards";
                mistakes.add("stripe_secret_key", problem);
                None
            }
            Some(command) => Some(Task::Command(Box::pin(async move {
                cli::run(&command, &settings, json).await
            }))),
        }
    }

    async fn build(settings: Settings) -> Result<Application> {
        Ok(Application {
            life: Lifecycle::new(),
            admin: service::admin::bind(&settings.service)?,
            settings,
        })
    }
}

/// The service, with its admin port bound. The public port follows when it can be served.
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
        let Self {
            life,
            admin: port,
            settings,
        } = self;
        let (health, metrics) = (Health::new(), Metrics::default());
        health.down("service", "starting");
        life.show_end(&health, "service");
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let notice_metrics = NoticeMetrics::default();
        notice_metrics.register(&mut registry);
        let billing = Arc::new(OnceLock::new());
        let admin_api = admin::router(AdminApi {
            token: settings.admin_token.as_deref().map(Into::into),
            billing: billing.clone(),
            metrics: metrics.clone(),
            notice_policy: settings.notices.policy,
        });
        let pages = service::admin::router(health.clone(), registry).merge(admin_api);
        service::admin::serve(&life, port, pages)?;

        let deadline = settings.service.shutdown_deadline;
        let start = start(&settings, &life, &health, &metrics, &notice_metrics, &billing);
        life.run(start, deadline).await
    }
}

async fn start(
    settings: &Settings,
    life: &Lifecycle,
    health: &Health,
    metrics: &Metrics,
    notice_metrics: &NoticeMetrics,
    started: &OnceLock<Billing>,
) -> Result<()> {
    let (own, public) = settings.postgres.halves();
    let db = service::postgres::connect(&own, "billing-worker", health).await?;
    let public_db = service::postgres::connect(&public, "billing-worker", health).await?;
    let admin = Administration {
        db: db.clone(),
        catalogue: Arc::new(settings.catalogue.clone()),
        announcer: Announcer::of_service(metrics.clone()),
        clickhouse: service::clickhouse::client(&settings.clickhouse),
        corrections_wait: Arc::default(),
        by: By::Service,
        name: None,
    };
    connect_nats(settings, life, health, &admin.announcer).await;
    database::prepare(&admin, settings.migrate).await?;
    let (pool, seen) = (db.clone(), health.clone());
    life.spawn(service::postgres::watch(pool, seen, life.clone(), |health, part| {
        health.down(part, "no answer");
    }));
    let watched = service::clickhouse::watch(admin.clickhouse.clone(), health.optional(), life.clone());
    life.spawn(watched);
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
    life.spawn(periodic::show_attention(db.clone(), metrics.clone(), life.clone()));
    life.spawn(periodic::retain(db, clickhouse, admin.catalogue.clone(), life.clone()));
    life.spawn(periodic::refresh_limits(admin.clone(), life.clone()));
    life.spawn(periodic::arm_spend_caps(admin.clone(), metrics.clone(), life.clone()));
    let returns = Returns {
        db: admin.db.clone(),
        clickhouse: admin.clickhouse.clone(),
        announcer: admin.announcer.clone(),
    };
    life.spawn(periodic::return_duplicates(returns, metrics.clone(), life.clone()));

    let stripe = Stripe::new(&settings.stripe, metrics.stripe.clone())?;
    if let Some(stripe) = &stripe {
        stripe.show_on(health.optional());
    }
    let reporter = stripe.map(|stripe| {
        let (clickhouse, catalogue) = (admin.clickhouse.clone(), admin.catalogue.clone());
        let (reports, metrics) = (settings.reports.clone(), metrics.reports.clone());
        Reporter::new(admin.db.clone(), clickhouse, stripe, catalogue, reports, metrics)
    });
    let billing = Billing::new(admin.clone(), reporter, settings.billing.clone(), Clock::default());
    let events = billing.by(By::Stripe);
    let api = PublicApi {
        billing: billing.by(By::Customer).on(&public_db),
        events: events.clone(),
        metrics: metrics.clone(),
        inbox: Arc::default(),
        life: life.clone(),
    };
    let (stopped, stopping) = (billing.clone(), life.clone());
    life.spawn(async move {
        stopping.stopping().await;
        stopped.stop();
        stopped.released().await;
    });
    if billing.has_stripe() {
        life.spawn(periodic::check_stripe(billing.in_class(Class::Sweep), life.clone()));
        life.spawn(periodic::report(billing.clone(), life.clone()));
        life.spawn(periodic::run_tasks(billing.in_class(Class::Webhook), life.clone()));
        life.spawn(webhook::worker::run(
            events.clone(),
            metrics.clone(),
            api.inbox.clone(),
            life.clone(),
        ));
        let sweeps = events.in_class(Class::Sweep);
        life.spawn(periodic::catch_up(sweeps.clone(), life.clone()));
        life.spawn(periodic::compare(sweeps.clone(), life.clone()));
        life.spawn(periodic::check_money(sweeps, life.clone()));
    } else {
        warn!("starting without STRIPE_SECRET_KEY: no subscriptions, no billing");
    }

    if started.set(billing.by(By::AdminApi)).is_err() {
        anyhow::bail!("the service was started twice");
    }
    let limits = settings.server.limits(&[]);
    service::open_files::raise(limits.connections as u64 + 200);
    let server = Server::bind(settings.listen, "--listen, BILLING_LISTEN", limits, &settings.service)?
        .with_metrics(metrics.server.clone());
    info!(address = %server.address()?, "serving the public API");
    let listening = server.listen()?;
    let stopping = life.token();
    let router = public::router(api);
    life.spawn_vital("public port", async move {
        listening.run(router, stopping, CancellationToken::new()).await;
        Ok(())
    });
    if !life.is_leaving() {
        health.up("service");
    }
    Ok(())
}

/// Connects to NATS in the background and waits for it briefly. Without NATS, gateways learn of changes later, but nothing here
/// fails. Only rejected credentials stop the service, because an operator must correct them.
async fn connect_nats(settings: &Settings, life: &Lifecycle, health: &Health, announcer: &Announcer) {
    // A worker without NATS still serves requests.
    let (nats, health) = (settings.nats.clone(), health.optional());
    let (announcer, stopping) = (announcer.clone(), life.token());
    let (tried, connected) = oneshot::channel::<()>();
    life.spawn_vital("connection to NATS", async move {
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

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use clap::CommandFactory;
    use service::boot;

    use super::*;
    use crate::cli::invocation::Arguments;

    fn problem(args: &[&str]) -> String {
        let args = ["billing-worker"].iter().chain(args).map(OsString::from);
        match boot::read::<BillingWorker>(args) {
            Ok(_) => panic!("accepted"),
            Err(refusal) => refusal.to_string(),
        }
    }

    #[test]
    fn arguments_are_consistent() {
        Arguments::command().mut_args(|arg| arg.global(true)).debug_assert();
    }

    #[test]
    fn problems_are_named_without_secrets() {
        for (args, named) in [
            (["--database-url", "mysql://u:hunter2@h/d"], "DATABASE_URL"),
            (["--nats-url", "nats://u:hunter2@h:x"], "NATS_URL"),
            (["--admin-token", ""], "ADMIN_TOKEN"),
            (["--admin-token", "hunter2 hunter2"], "ADMIN_TOKEN"),
            (["--listen", "127.0.0.1:9090"], "ADMIN_ADDR"),
            (["--database-connections", "5"], "DATABASE_CONNECTIONS"),
            (["--stripe-secret-key", "pk_live_hunter2"], "STRIPE_SECRET_KEY"),
            (["--stripe-api-base", "hunter2"], "STRIPE_API_BASE"),
            (["--stripe-webhook-secrets", "whsec_hunter2,"], "STRIPE_WEBHOOK_SECRETS"),
            (["--stripe-webhook-secrets", "hunter2"], "whsec_"),
            (["--stripe-webhook-secrets", "whsec_"], "whsec_"),
            (["--run-dead-after", "29"], "at least 30s, twice HEARTBEAT_INTERVAL_MAX"),
            (["--usage-stored-wait", "61"], "USAGE_STORED_WAIT"),
            (["--stripe-summary-wait", "60.5"], "at most 60s"),
            (
                ["--open-money-after", "3599"],
                "at least 3600s, the value of LATE_CHARGE_AFTER",
            ),
            (["--clickhouse-database", ""], "CLICKHOUSE_DATABASE"),
            (["--billing-public-url", "billing"], "BILLING_PUBLIC_URL"),
            (["--plans", "/nowhere/plans.toml"], "/nowhere/plans.toml"),
        ] {
            let problem = problem(&args);
            assert!(
                problem.contains(named) && !problem.contains("hunter2"),
                "{args:?}: {problem}"
            );
        }
    }

    #[test]
    fn sub_commands_take_the_settings_of_the_service() {
        for args in [
            "accounts list --json --database-url postgres://h/behind --clickhouse-url http://behind:1",
            "--database-url postgres://h/behind --clickhouse-url http://behind:1 --json reconcile",
            "migrate --clickhouse-url http://behind:1 --json --database-url postgres://h/behind",
        ] {
            let args = format!("billing-worker {args}");
            let (cli, _) = boot::arguments::<BillingWorker>(args.split(' ').map(OsString::from)).unwrap();
            assert!(cli.json && cli.command.is_some());
            assert_eq!(cli.settings.postgres.database_url, "postgres://h/behind");
            assert_eq!(cli.settings.clickhouse.clickhouse_url, "http://behind:1");
        }
    }
}
