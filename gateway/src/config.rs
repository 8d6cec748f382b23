//! Settings, from arguments and environment: read and checked before any socket is bound.

use std::{fs, net::SocketAddr, path::Path, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use clap::{Args, Parser};
use lane::{gathered::BatchLimits, publisher::QueueLimits, run::RunLimits, spool::SpoolSettings, task::LaneLimits};
use quota_store::writers::BILLING_WORKER;
use schema::{Catalogue, catalogue::TrialOverage};
use service::{
    boot::Mistakes,
    nats::NatsSettings,
    postgres::PostgresSettings,
    server::{ServerLimits, ServerSettings},
    settings::{ServiceSettings, at_least, seconds},
};

use crate::{
    accounts::AccountSettings,
    http::{
        gateway::HttpSettings,
        proxy::{Upstream, UpstreamSettings},
    },
    pricing::routes::RouteTable,
    quota::QuotaSettings,
    recording::publisher::Slot,
};

/// The gateway of Trendit Usage: meters an API, enforces its limits, and records every request before it is answered.
#[derive(Parser, Clone, Debug)]
#[command(name = "gateway", version, max_term_width = 120)]
pub struct Settings {
    /// Address of the public port
    #[arg(long, env = "GATEWAY_LISTEN", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,

    /// Name of this gateway, for people; without it, the host name and the public port are used
    #[arg(long, env = "GATEWAY_NAME")]
    pub gateway_name: Option<String>,

    /// TOML file of the plan catalogue; without it, the built-in one is used
    #[arg(long, env = "PLANS_FILE", value_name = "FILE")]
    pub plans: Option<PathBuf>,

    /// What a trial may use beyond what its plan includes: nothing (refuse), or as much as it wants without a bill (free); the same
    /// for all gateways and billing workers
    #[arg(long, env = "TRIAL_OVERAGE", default_value = "refuse", value_name = "refuse|free")]
    pub trial_overage: TrialOverage,

    #[command(flatten)]
    pub http: HttpSettings,
    #[command(flatten)]
    pub upstream: UpstreamSettings,
    #[command(flatten, next_help_heading = "Connections of clients")]
    pub server: ServerSettings,
    #[command(flatten, next_help_heading = "Recording")]
    pub lanes: LaneSettings,
    #[command(flatten, next_help_heading = "Spool: recording while NATS is unavailable")]
    pub spool: SpoolArgs,
    #[command(flatten, next_help_heading = "Quotas")]
    pub quota: LeaseSettings,
    #[command(flatten, next_help_heading = "Servers")]
    pub nats: NatsSettings,
    #[command(flatten)]
    pub postgres: PostgresSettings,
    #[command(flatten, next_help_heading = "Service")]
    pub service: ServiceSettings,
}

#[derive(Args, Clone, Debug)]
pub struct LaneSettings {
    /// Maximum number of events in one message
    #[arg(long, env = "BATCH_EVENTS", default_value = "2000", value_parser = at_least::<1>)]
    pub batch_events: usize,

    /// Maximum size of one message; must be less than max_payload of NATS (bytes)
    #[arg(long, env = "BATCH_BYTES", default_value = "524288", value_parser = at_least::<{ Slot::BYTES_MAX }>)]
    pub batch_bytes: usize,

    /// Maximum number of requests that wait for one lane; further ones are answered 503
    #[arg(long, env = "LANE_QUEUE", default_value = "4096", value_parser = at_least::<1>)]
    pub lane_queue: usize,

    /// Maximum size of the events that wait for one lane; further requests are answered 503 (bytes)
    #[arg(long, env = "LANE_QUEUE_BYTES", default_value = "4194304", value_parser = at_least::<1>)]
    pub lane_queue_bytes: usize,

    /// How long an attempt to publish may take; after that, the gateway checks whether the stream has the message; at most
    /// OUTCOME_DEADLINE (seconds)
    #[arg(long, env = "PUBLISH_TIMEOUT", default_value = "2", value_parser = seconds)]
    pub publish_timeout: Duration,

    /// How long the outcome of a message may be unknown; after that, the lane spools it, or, without a spool, answers further
    /// requests 503 (seconds)
    #[arg(long, env = "LANE_STUCK_AFTER", default_value = "1", value_parser = seconds)]
    pub lane_stuck_after: Duration,

    /// How long a request may wait to be recorded before it is answered 504 outcome_unknown (seconds)
    #[arg(long, env = "OUTCOME_DEADLINE", default_value = "10", value_parser = seconds)]
    pub outcome_deadline: Duration,

    /// How often the gateway writes a heartbeat; after RUN_DEAD_AFTER without one, a billing worker ends the gateway's run (seconds)
    #[arg(long, env = "HEARTBEAT_INTERVAL", default_value = "5", value_parser = seconds)]
    pub heartbeat_interval: Duration,
}

#[derive(Args, Clone, Debug)]
pub struct SpoolArgs {
    /// Directory that only this gateway uses, on a disk that outlives the process: requests are recorded there while NATS is
    /// unavailable; without it, they are answered 503
    #[arg(long, env = "SPOOL_DIR", value_name = "DIR")]
    pub spool_dir: Option<PathBuf>,

    /// Maximum size of the spool; when it is full, requests are answered 503 (bytes)
    #[arg(long, env = "SPOOL_MAX_BYTES", default_value = "1073741824", value_parser = at_least::<1_048_576>)]
    pub spool_max_bytes: usize,

    /// Maximum age of an event in the spool; when one is older, requests are answered 503 (seconds)
    #[arg(long, env = "SPOOL_MAX_AGE", default_value = "86400", value_parser = seconds)]
    pub spool_max_age: Duration,
}

#[derive(Args, Clone, Debug)]
pub struct LeaseSettings {
    /// How long a request may wait for units from PostgreSQL before it is answered 503 (seconds)
    #[arg(long, env = "QUOTA_WAIT", default_value = "2", value_parser = seconds)]
    pub quota_wait: Duration,

    /// How long a counter may spend nothing before it gives its units back (seconds)
    #[arg(long, env = "LEASE_IDLE", default_value = "30", value_parser = seconds)]
    pub lease_idle: Duration,

    /// How long other gateways may take to give their units back before a request is refused (seconds)
    #[arg(long, env = "RECALL_WAIT", default_value = "0.1", value_parser = seconds)]
    pub recall_wait: Duration,

    /// Maximum number of API keys in the cache
    #[arg(long, env = "KEYS_MAX", default_value = "100000", value_parser = clap::value_parser!(u64).range(1..))]
    pub keys_max: u64,

    /// How often all cached keys and accounts are read again, in case an announcement was lost; at most 60 (seconds)
    #[arg(long, env = "REFRESH_INTERVAL", default_value = "20", value_parser = seconds)]
    pub refresh_interval: Duration,
}

/// The default of HEARTBEAT_INTERVAL_MAX of the billing worker, which derives the least RUN_DEAD_AFTER from it.
const HEARTBEAT_INTERVAL_MAX: Duration = Duration::from_secs(15);

/// Largest segment of the spool. Its disk space is freed when the whole segment is drained.
const SPOOL_SEGMENT_BYTES: u64 = 8 << 20;

/// The checked settings, and the parts built from them.
pub struct Config {
    pub settings: Settings,
    pub catalogue: Arc<Catalogue>,
    pub routes: RouteTable,
    pub upstream: Option<Upstream>,
    pub gateway_name: String,
}

impl Config {
    /// Checks settings that depend on each other, and reads the files.
    pub fn check(settings: Settings, mistakes: &mut Mistakes) -> Option<Self> {
        mistakes.ensure(
            settings.listen != settings.service.admin_addr || settings.listen.port() == 0,
            "listen",
            format_args!("must differ from ADMIN_ADDR, got {} for both", settings.listen),
        );
        mistakes.ensure(
            settings.gateway_name.as_deref() != Some(BILLING_WORKER),
            "gateway_name",
            format_args!("must not be {BILLING_WORKER}, which is the name of the billing workers in the list of runs"),
        );
        let lanes = &settings.lanes;
        mistakes.ensure(
            lanes.lane_stuck_after < lanes.outcome_deadline,
            "lane_stuck_after",
            format_args!(
                "must be less than OUTCOME_DEADLINE ({:?}), got {:?}",
                lanes.outcome_deadline, lanes.lane_stuck_after
            ),
        );
        mistakes.ensure(
            lanes.publish_timeout <= lanes.outcome_deadline,
            "publish_timeout",
            format_args!(
                "must be at most OUTCOME_DEADLINE ({:?}), got {:?}",
                lanes.outcome_deadline, lanes.publish_timeout
            ),
        );
        mistakes.ensure(
            lanes.heartbeat_interval <= HEARTBEAT_INTERVAL_MAX,
            "heartbeat_interval",
            format_args!(
                "must be at most 15 seconds, otherwise other services consider this one dead, got {:?}",
                lanes.heartbeat_interval
            ),
        );
        mistakes.ensure(
            settings.quota.refresh_interval <= Duration::from_secs(60),
            "refresh_interval",
            format_args!(
                "must be at most 60 seconds: if the announcement of a change is lost, the change takes effect only then, got {:?}",
                settings.quota.refresh_interval
            ),
        );
        mistakes.ensure(
            settings.quota.recall_wait < settings.quota.quota_wait,
            "recall_wait",
            format_args!(
                "must be less than QUOTA_WAIT ({:?}), which includes this wait and two requests to PostgreSQL, got {:?}",
                settings.quota.quota_wait, settings.quota.recall_wait
            ),
        );
        if let Some(dir) = &settings.spool.spool_dir {
            let made = fs::create_dir_all(dir).with_context(|| format!("creating the directory {}", dir.display()));
            mistakes.take("spool_dir", made);
        }
        let upstream = mistakes.take("upstream_url", Upstream::new(&settings.upstream));
        let catalogue = mistakes.take("plans", catalogue(settings.plans.as_deref()))?;
        let catalogue = catalogue.with_trial_overage(settings.trial_overage);
        let routes = RouteTable::load(settings.http.routes.as_deref(), &catalogue);
        Some(Self {
            routes: mistakes.take("routes", routes)?,
            upstream: upstream?,
            gateway_name: settings
                .gateway_name
                .clone()
                .unwrap_or_else(|| default_name(settings.listen)),
            catalogue: Arc::new(catalogue),
            settings,
        })
    }

    pub fn server_limits(&self) -> ServerLimits {
        self.settings.server.limits(&self.settings.http.trusted_proxies)
    }

    pub fn run_limits(&self) -> RunLimits {
        let lanes = &self.settings.lanes;
        RunLimits {
            heartbeat_interval: lanes.heartbeat_interval,
            queue: QueueLimits {
                entries: lanes.lane_queue,
                bytes: lanes.lane_queue_bytes,
            },
            lane: LaneLimits {
                batch: BatchLimits {
                    events: lanes.batch_events,
                    bytes: lanes.batch_bytes,
                },
                attempt_timeout: lanes.publish_timeout,
                stuck_after: lanes.lane_stuck_after,
                outcome_deadline: lanes.outcome_deadline,
            },
        }
    }

    /// `None`: there is no spool.
    pub fn spool_settings(&self) -> Option<SpoolSettings> {
        let spool = &self.settings.spool;
        let bytes_max = spool.spool_max_bytes as u64;
        Some(SpoolSettings {
            dir: spool.spool_dir.clone()?,
            bytes_max,
            age_max: spool.spool_max_age,
            segment_bytes: (bytes_max / 16).min(SPOOL_SEGMENT_BYTES),
            batch_bytes: self.settings.lanes.batch_bytes as u64,
        })
    }

    pub fn quota_settings(&self) -> QuotaSettings {
        QuotaSettings {
            wait_max: self.settings.quota.quota_wait,
            idle_after: self.settings.quota.lease_idle,
            recall_wait: self.settings.quota.recall_wait,
            ..QuotaSettings::default()
        }
    }

    pub fn account_settings(&self) -> AccountSettings {
        AccountSettings {
            keys_max: self.settings.quota.keys_max,
            refresh_interval: self.settings.quota.refresh_interval,
            ..AccountSettings::default()
        }
    }
}

fn catalogue(file: Option<&Path>) -> Result<Catalogue> {
    let Some(path) = file else {
        return Ok(Catalogue::built_in());
    };
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    match Catalogue::parse(&text) {
        Ok(catalogue) => Ok(catalogue),
        Err(error) => bail!("{}:{}: {}", path.display(), error.line, error.problem),
    }
}

/// Differs between the gateways of one machine.
fn default_name(listen: SocketAddr) -> String {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match host.trim() {
        "" => format!("gateway:{}", listen.port()),
        host => format!("{host}:{}", listen.port()),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use service::boot::{self, Task};

    use super::*;
    use crate::app::GatewayService;

    fn check(args: &[&str]) -> Result<Config, String> {
        let args = std::iter::once("gateway").chain(args.iter().copied());
        match boot::read::<GatewayService>(args.map(OsString::from)) {
            Ok((Task::Serve(config), _)) => Ok(config),
            Ok(_) => unreachable!("there are no sub-commands"),
            Err(refusal) => Err(refusal.to_string()),
        }
    }

    fn problem(args: &[&str]) -> String {
        check(args).err().unwrap_or_else(|| panic!("{args:?} were accepted"))
    }

    #[test]
    fn defaults_are_sound() {
        let config = check(&[]).unwrap();
        assert!(config.upstream.is_none());
        assert!(config.gateway_name.ends_with(":8080"), "{}", config.gateway_name);
    }

    #[test]
    fn mistakes_are_named_and_no_password_is_shown() {
        for (args, named) in [
            (["--database-url", "mysql://u:hunter2@h/db"], "`mysql://h/db`"),
            (["--nats-url", "nats://u:hunter2@"], "NATS_URL"),
            (["--nats-url", "http//u:hunter2@h"], "NATS_URL"),
            (["--upstream-url", "ftp://host"], "UPSTREAM_URL"),
            (["--listen", "127.0.0.1:9090"], "ADMIN_ADDR"),
            (["--listen", "here"], "--listen"),
            (["--plans", "/nowhere/plans.toml"], "/nowhere/plans.toml"),
            (["--trial-overage", "perhaps"], "must be `refuse` or `free`"),
            (["--routes", "/nowhere/routes.toml"], "/nowhere/routes.toml"),
            (["--trusted-proxies", "10.0.0.0/99"], "--trusted-proxies"),
            (["--batch-bytes", "1000"], "262144 or more"),
            (["--lane-stuck-after", "10"], "LANE_STUCK_AFTER"),
            (["--heartbeat-interval", "30"], "HEARTBEAT_INTERVAL"),
            (["--publish-timeout", "0"], "--publish-timeout"),
            (["--publish-timeout", "11"], "OUTCOME_DEADLINE (10s), got 11s"),
            (["--keys-max", "0"], "1 or more, got 0"),
            (["--upgrade-url", ""], "UPGRADE_URL"),
            (["--gateway-name", ""], "GATEWAY_NAME"),
            (["--gateway-name", "billing-worker"], "GATEWAY_NAME"),
            (["--routes", ""], "must not be empty"),
            (["--spool-max-bytes", "1000"], "1048576 or more"),
            (["--refresh-interval", "61"], "REFRESH_INTERVAL"),
            (["--recall-wait", "2"], "RECALL_WAIT"),
        ] {
            let problem = problem(&args);
            assert!(
                problem.contains(named) && !problem.contains("hunter2"),
                "{args:?}: {problem}"
            );
        }
    }
}
