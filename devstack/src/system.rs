//! Our services on top of the servers: a billing worker, ingestors and gateways, each a child process, the upstream they
//! protect, and a fake Stripe.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result};
use futures_util::future::try_join_all;
use schema::clock;

use crate::{
    Service, ServiceOptions, StripeDouble, StripeDoubleOptions, admin::Admin, nats, ports, upstream::Upstream,
};

/// Longer than the shutdown deadline of the services.
const STOP_WITHIN: Duration = Duration::from_secs(40);

/// The URLs of the servers, and this system's databases.
#[derive(Clone, Debug)]
pub struct Endpoints {
    pub nats_url: String,
    pub database_url: String,
    pub clickhouse_url: String,
    pub clickhouse_database: String,
}

#[derive(Clone, Debug)]
pub struct SystemOptions {
    pub gateways: usize,
    pub ingestors: usize,
    /// The executable that runs as `<exe> service <name>`; `None`: this one.
    pub exe: Option<PathBuf>,
    /// The directory for logs.
    pub dir: PathBuf,
    /// An upstream to use instead of the demo's own.
    pub upstream_url: Option<String>,
    /// Whether [`crate::Nats`] started the server, so that each kind of service has a user. If not, the environment has the
    /// credentials of the services.
    pub nats_is_ours: bool,
    /// With a fake Stripe that has the prices of the catalogue and sends its webhooks to the billing worker.
    pub stripe: bool,
    /// How far the clock of the fake Stripe is behind at its start.
    pub stripe_behind_s: i64,
    /// The directory for the spools of the gateways; `None`: no spools.
    pub spool_dir: Option<PathBuf>,
    /// A plan catalogue for gateways and billing workers; `None`: the built-in one.
    pub plans_file: Option<PathBuf>,
    /// More settings for each kind of service.
    pub gateway_env: Vec<(&'static str, String)>,
    pub ingestor_env: Vec<(&'static str, String)>,
    pub billing_env: Vec<(&'static str, String)>,
}

pub struct System {
    pub endpoints: Endpoints,
    pub billing: Service,
    pub ingestors: Vec<Service>,
    pub gateways: Vec<Gateway>,
    pub upstream: Option<Upstream>,
    pub stripe: Option<StripeDouble>,
    pub admin: Admin,
    /// The URL of the billing worker's public port.
    pub billing_url: String,
    pub admin_token: String,
    options: SystemOptions,
}

pub struct Gateway {
    pub service: Service,
    pub url: String,
}

impl SystemOptions {
    pub fn new(dir: PathBuf) -> Self {
        Self {
            gateways: 1,
            ingestors: 1,
            exe: None,
            spool_dir: Some(dir.join("spool")),
            dir,
            upstream_url: None,
            nats_is_ours: std::env::var_os("NATS_URL").is_none_or(|url| url.is_empty()),
            stripe: false,
            stripe_behind_s: 0,
            plans_file: None,
            gateway_env: Vec::new(),
            ingestor_env: Vec::new(),
            billing_env: Vec::new(),
        }
    }
}

impl System {
    /// Starts everything and waits until all of it is ready.
    pub async fn start(endpoints: Endpoints, options: SystemOptions) -> Result<Self> {
        let admin_token = format!("admin-{:032x}", rand::random::<u128>());
        let upstream = match options.upstream_url {
            Some(_) => None,
            None => Some(Upstream::start().await?),
        };
        let stripe = match options.stripe {
            true => {
                let behind = (options.stripe_behind_s > 0).then(|| clock::now_s() - options.stripe_behind_s);
                let double = StripeDoubleOptions {
                    start_at: behind,
                    ..StripeDoubleOptions::default()
                };
                Some(StripeDouble::start(double).await?)
            }
            false => None,
        };
        // The billing worker creates the Postgres tables, the ingestor the stream and the ClickHouse tables. A gateway waits
        // for both.
        let (billing, ingestors) = tokio::try_join!(
            start_billing(&endpoints, &options, &admin_token, stripe.as_ref()),
            try_join_all((1..=options.ingestors).map(|n| start_ingestor(&endpoints, &options, n))),
        )?;
        let (billing, billing_url) = billing;
        if let Some(stripe) = &stripe {
            // The products, prices and meters of the catalogue.
            command(&endpoints, &options, Some(stripe), &["stripe", "sync"]).await?;
            stripe
                .control()
                .add_webhook(&format!("{billing_url}/billing/webhooks/stripe"))?;
        }
        let admin = Admin::new(&billing.admin_url(), &admin_token);
        let mut system = Self {
            endpoints,
            billing,
            ingestors,
            gateways: Vec::new(),
            upstream,
            stripe,
            admin,
            billing_url,
            admin_token,
            options,
        };
        system.gateways = try_join_all((1..=system.options.gateways).map(|n| system.start_gateway(n))).await?;
        Ok(system)
    }

    /// The catalogue, if it is not the built-in one.
    pub fn plans_file(&self) -> Option<&Path> {
        self.options.plans_file.as_deref()
    }

    /// Starts the n-th gateway (from 1).
    pub async fn start_gateway(&self, n: usize) -> Result<Gateway> {
        let upstream = match (&self.options.upstream_url, &self.upstream) {
            (Some(url), _) => url.as_str(),
            (None, Some(upstream)) => upstream.url(),
            (None, None) => anyhow::bail!("this system has no upstream"),
        };
        ports::on_free_port(None, async |port| {
            let url = format!("http://127.0.0.1:{port}");
            let service = service("gateway", n, &self.options, &self.options.gateway_env)?
                .env("NATS_URL", &self.endpoints.nats_url)
                .env("DATABASE_URL", &self.endpoints.database_url)
                .env("UPSTREAM_URL", upstream)
                .env("GATEWAY_LISTEN", format!("127.0.0.1:{port}"));
            let service = match &self.options.spool_dir {
                Some(dir) => service.env("SPOOL_DIR", dir.join(format!("gateway-{n}"))),
                None => service,
            };
            let service = Service::start(service)
                .await
                .with_context(|| format!("starting gateway {n}"))?;
            Ok(Gateway { service, url })
        })
        .await
    }

    /// Starts the n-th ingestor (from 1).
    pub async fn start_ingestor(&self, n: usize) -> Result<Service> {
        start_ingestor(&self.endpoints, &self.options, n).await
    }

    /// Runs a command of the billing worker, as an operator does, and returns what it prints.
    pub async fn command(&self, arguments: &[&str]) -> Result<String> {
        command(&self.endpoints, &self.options, self.stripe.as_ref(), arguments).await
    }

    /// Sends SIGTERM to all, first to the gateways, so that the ingestors store their last events. Fails if one ends with an error.
    pub async fn stop(&mut self) -> Result<()> {
        let gateways = self.gateways.iter_mut().map(|gateway| end(&mut gateway.service));
        try_join_all(gateways).await?;
        try_join_all(self.ingestors.iter_mut().map(end)).await?;
        end(&mut self.billing).await
    }
}

async fn start_billing(
    endpoints: &Endpoints,
    options: &SystemOptions,
    token: &str,
    stripe: Option<&StripeDouble>,
) -> Result<(Service, String)> {
    ports::on_free_port(None, async |port| {
        let url = format!("http://127.0.0.1:{port}");
        let mut service = service("billing-worker", 1, options, &options.billing_env)?
            .env("NATS_URL", &endpoints.nats_url)
            .env("DATABASE_URL", &endpoints.database_url)
            .env("CLICKHOUSE_URL", &endpoints.clickhouse_url)
            .env("CLICKHOUSE_DATABASE", &endpoints.clickhouse_database)
            .env("ADMIN_TOKEN", token)
            .env("BILLING_LISTEN", format!("127.0.0.1:{port}"))
            .env("BILLING_PUBLIC_URL", &url);
        if let Some(stripe) = stripe {
            service = service
                .env("STRIPE_SECRET_KEY", stripe.api_key())
                .env("STRIPE_API_BASE", stripe.url())
                .env("STRIPE_WEBHOOK_SECRETS", stripe.webhook_secret());
        }
        let service = Service::start(service).await.context("starting the billing worker")?;
        Ok((service, url))
    })
    .await
}

/// Runs a command of the billing worker.
async fn command(
    endpoints: &Endpoints,
    options: &SystemOptions,
    stripe: Option<&StripeDouble>,
    arguments: &[&str],
) -> Result<String> {
    let exe = match &options.exe {
        Some(exe) => exe.clone(),
        None => std::env::current_exe().context("finding our own executable")?,
    };
    let mut command = tokio::process::Command::new(exe);
    command
        .args(["service", "billing-worker"])
        .args(arguments)
        // The services do not inherit our environment either.
        .env_clear()
        .env("NATS_URL", &endpoints.nats_url)
        .env("DATABASE_URL", &endpoints.database_url)
        .env("CLICKHOUSE_URL", &endpoints.clickhouse_url)
        .env("CLICKHOUSE_DATABASE", &endpoints.clickhouse_database)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    for (name, value) in credentials("billing-worker", options) {
        command.env(name, value);
    }
    if let Some(stripe) = stripe {
        command
            .env("STRIPE_SECRET_KEY", stripe.api_key())
            .env("STRIPE_API_BASE", stripe.url());
    }
    if let Some(file) = &options.plans_file {
        command.env("PLANS_FILE", file);
    }
    let output = tokio::time::timeout(STOP_WITHIN, command.output())
        .await
        .with_context(|| format!("billing-worker {} takes too long", arguments.join(" ")))??;
    anyhow::ensure!(
        output.status.success(),
        "billing-worker {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// Of our services at NATS and ClickHouse.
fn credentials(kind: &str, options: &SystemOptions) -> Vec<(&'static str, OsString)> {
    // A server that an environment variable names has its own credentials.
    let named = ["NATS_USER", "NATS_PASSWORD", "CLICKHOUSE_USER", "CLICKHOUSE_PASSWORD"].into_iter();
    let mut credentials: Vec<_> = named.filter_map(|name| Some((name, std::env::var_os(name)?))).collect();
    if options.nats_is_ours {
        credentials.push(("NATS_USER", kind.into()));
        credentials.push(("NATS_PASSWORD", nats::password(kind).into()));
    }
    credentials
}

async fn start_ingestor(endpoints: &Endpoints, options: &SystemOptions, n: usize) -> Result<Service> {
    ports::on_free_port(None, async |_| {
        let service = service("ingestor", n, options, &options.ingestor_env)?
            .env("NATS_URL", &endpoints.nats_url)
            .env("CLICKHOUSE_URL", &endpoints.clickhouse_url)
            .env("CLICKHOUSE_DATABASE", &endpoints.clickhouse_database);
        Service::start(service)
            .await
            .with_context(|| format!("starting ingestor {n}"))
    })
    .await
}

fn service(kind: &str, n: usize, options: &SystemOptions, settings: &[(&str, String)]) -> Result<ServiceOptions> {
    let admin_port = ports::free()?;
    let mut service = ServiceOptions::new(kind, &format!("{kind}-{n}"), options.dir.clone(), admin_port)
        .env("ADMIN_ADDR", format!("127.0.0.1:{admin_port}"));
    service.exe.clone_from(&options.exe);
    for (name, value) in credentials(kind, options) {
        service = service.env(name, value);
    }
    if let Some(file) = options.plans_file.as_ref().filter(|_| kind != "ingestor") {
        service = service.env("PLANS_FILE", file);
    }
    for (name, value) in settings {
        service = service.env(*name, OsString::from(value));
    }
    Ok(service)
}

async fn end(service: &mut Service) -> Result<()> {
    if !service.is_running() {
        return Ok(());
    }
    let name = service.name().to_owned();
    let status = service
        .stop(STOP_WITHIN)
        .await
        .with_context(|| format!("stopping {name}"))?;
    anyhow::ensure!(status.success(), "{name} ended with {status}");
    Ok(())
}
