//! The settings of the services, and their start.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, atomic::AtomicBool},
};

use anyhow::{Context, Result, ensure};
use devstack::{Service, ServiceOptions, StripeDouble, admin::Admin, nats, ports, upstream::Upstream};
use futures_util::future::try_join_all;
use tokio::{process::Command, sync::Mutex};

use super::{Handle, clock_file, through};
use crate::{
    faults::{
        cast,
        plan::{Part, Store, Targets},
        proxy::Proxy,
    },
    wrong_clock::WRONG_CLOCK_FILE,
};

/// The settings of the services.
pub struct Env {
    exe: PathBuf,
    dir: PathBuf,
    plans: PathBuf,
    admin_token: String,
    of_part: BTreeMap<Part, Vec<(&'static str, String)>>,
    /// The environment of an operator's command: it connects directly to the servers.
    pub of_command: Vec<(&'static str, String)>,
}

pub(super) struct Started {
    pub services: BTreeMap<Part, Arc<Handle>>,
    pub gateways: Vec<String>,
    pub admins: Vec<Admin>,
    pub billing_url: String,
}

/// Shared by all services, in seconds.
const OF_ALL: [(&str, &str); 2] = [("LOG_FILTER", "info"), ("SHUTDOWN_DEADLINE", "20")];
const OF_GATEWAYS: [(&str, &str); 6] = [
    ("HEARTBEAT_INTERVAL", "0.5"),
    ("OUTCOME_DEADLINE", "4"),
    ("PUBLISH_TIMEOUT", "1"),
    ("LANE_STUCK_AFTER", "0.5"),
    ("LEASE_IDLE", "5"),
    // Large enough for any planned outage under normal load, and soon full under a burst.
    ("SPOOL_MAX_BYTES", "4194304"),
];
const OF_INGESTORS: [(&str, &str); 4] = [
    ("SHARDS", "4"),
    ("MEMBER_TTL", "2"),
    ("BATCH_AGE_MAX", "0.2"),
    ("INSERT_TIMEOUT", "10"),
];
const OF_BILLING: [(&str, &str); 6] = [
    ("RUN_DEAD_AFTER", "6"),
    ("HEARTBEAT_INTERVAL_MAX", "0.5"),
    ("REPORT_INTERVAL", "1"),
    ("STRIPE_TIMEOUT", "2"),
    ("STRIPE_CALLS_PER_SECOND", "1000"),
    ("STRIPE_METER_EVENTS_PER_SECOND", "1000"),
];

impl Env {
    pub fn new(
        exe: PathBuf,
        dir: &Path,
        database_url: &str,
        links: &BTreeMap<(Part, Store), Proxy>,
        stripe: &StripeDouble,
        upstream: &Upstream,
    ) -> Result<Self> {
        let plans = dir.join("plans.toml");
        std::fs::write(&plans, cast::PLANS).with_context(|| format!("writing {}", plans.display()))?;
        let admin_token = format!("admin-{:032x}", rand::random::<u128>());
        let of_stripe = [
            ("STRIPE_SECRET_KEY", stripe.api_key().to_owned()),
            ("STRIPE_API_BASE", stripe.url().to_owned()),
            ("STRIPE_WEBHOOK_SECRETS", stripe.webhook_secret().to_owned()),
        ];
        let (_, database) = database_url.rsplit_once('/').context("a URL names its database")?;
        let mut of_part: BTreeMap<Part, Vec<(&'static str, String)>> = BTreeMap::new();
        for (part, store) in links.keys() {
            let address = through(links, *part, *store);
            let env = of_part.entry(*part).or_default();
            match store {
                Store::Nats => env.push(("NATS_URL", format!("nats://{address}"))),
                Store::Postgres => env.push(("DATABASE_URL", format!("postgres://postgres@{address}/{database}"))),
                Store::ClickHouse => {
                    env.push(("CLICKHOUSE_URL", format!("http://{address}")));
                    env.push(("CLICKHOUSE_DATABASE", "faults".to_owned()));
                }
            }
        }
        for (part, env) in &mut of_part {
            env.push(("NATS_USER", part.kind().to_owned()));
            env.push(("NATS_PASSWORD", nats::password(part.kind())));
            let own: &[(&'static str, &str)] = match part {
                Part::Gateway(n) => {
                    env.push(("UPSTREAM_URL", upstream.url().to_owned()));
                    env.push(("GATEWAY_NAME", part.to_string()));
                    env.push(("SPOOL_DIR", dir.join(format!("spool-{n}")).display().to_string()));
                    env.push((WRONG_CLOCK_FILE, clock_file(dir, *n).display().to_string()));
                    &OF_GATEWAYS
                }
                Part::Ingestor(_) => &OF_INGESTORS,
                Part::Billing(_) => {
                    env.push(("ADMIN_TOKEN", admin_token.clone()));
                    env.extend(of_stripe.clone());
                    &OF_BILLING
                }
            };
            let own = OF_ALL.iter().chain(own);
            env.extend(own.map(|(name, value)| (*name, (*value).to_owned())));
            if !matches!(part, Part::Ingestor(_)) {
                env.push(("PLANS_FILE", plans.display().to_string()));
            }
        }
        Ok(Self {
            exe,
            dir: dir.to_owned(),
            admin_token,
            of_part,
            of_command: [
                ("DATABASE_URL", database_url.to_owned()),
                ("PLANS_FILE", plans.display().to_string()),
            ]
            .into_iter()
            .chain(of_stripe)
            .collect(),
            plans,
        })
    }

    /// A billing worker command, as an operator runs it.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.exe);
        command
            .args(["service", "billing-worker"])
            .args(args)
            .envs(self.of_command.iter().map(|(name, value)| (name, value)))
            .env("PLANS_FILE", &self.plans)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }
}

/// Billing workers create the PostgreSQL tables, ingestors create the stream and the ClickHouse tables. A gateway waits for
/// both.
pub(super) async fn start_all(env: &Env, targets: &Targets, stripe: &StripeDouble) -> Result<Started> {
    let (mut billing, ingestors) = tokio::try_join!(
        try_join_all((1..=targets.billing_workers).map(|n| start_billing(env, n))),
        try_join_all((1..=targets.ingestors).map(|n| start_one(env, Part::Ingestor(n), Vec::new()))),
    )?;
    let synced = env.command(&["stripe", "sync"]).output().await?;
    ensure!(
        synced.status.success(),
        "billing-worker stripe sync: {}",
        String::from_utf8_lossy(&synced.stderr)
    );
    let (_, billing_url) = billing.first().context("there is a billing worker")?;
    let billing_url = billing_url.clone();
    stripe
        .control()
        .add_webhook(&format!("{billing_url}/billing/webhooks/stripe"))?;
    let admins = billing
        .iter()
        .map(|((_, service), _)| Admin::new(&service.admin_url(), &env.admin_token))
        .collect();
    let gateways = try_join_all((1..=targets.gateways).map(|n| start_gateway(env, n))).await?;
    let addresses = gateways.iter().map(|(_, address)| address.clone()).collect();
    let all = billing
        .drain(..)
        .chain(gateways)
        .map(|(started, _)| started)
        .chain(ingestors);
    let handle = |(part, service)| {
        let handle = Handle {
            service: Mutex::new(service),
            wanted: AtomicBool::new(true),
        };
        (part, Arc::new(handle))
    };
    Ok(Started {
        services: all.map(handle).collect(),
        gateways: addresses,
        admins,
        billing_url,
    })
}

async fn start_billing(env: &Env, n: usize) -> Result<((Part, Service), String)> {
    let port = ports::free()?;
    let url = format!("http://127.0.0.1:{port}");
    let own = vec![
        ("BILLING_LISTEN", format!("127.0.0.1:{port}")),
        ("BILLING_PUBLIC_URL", url.clone()),
    ];
    Ok((start_one(env, Part::Billing(n), own).await?, url))
}

async fn start_gateway(env: &Env, n: usize) -> Result<((Part, Service), String)> {
    let address = format!("127.0.0.1:{}", ports::free()?);
    let own = vec![("GATEWAY_LISTEN", address.clone())];
    Ok((start_one(env, Part::Gateway(n), own).await?, address))
}

async fn start_one(env: &Env, part: Part, own: Vec<(&'static str, String)>) -> Result<(Part, Service)> {
    let port = ports::free()?;
    let mut options = ServiceOptions::new(part.kind(), &part.to_string(), env.dir.clone(), port)
        .env("ADMIN_ADDR", format!("127.0.0.1:{port}"));
    options.exe = Some(env.exe.clone());
    for (name, value) in env.of_part[&part].iter().chain(&own) {
        options = options.env(*name, value);
    }
    let service = Service::start(options)
        .await
        .with_context(|| format!("starting {part}"))?;
    Ok((part, service))
}
