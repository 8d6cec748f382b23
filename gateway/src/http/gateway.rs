//! Everything that requests share. Built once.

use std::{path::PathBuf, sync::Arc};

use clap::Args;
use ipnet::IpNet;
use prometheus_client::registry::Registry;
use schema::Catalogue;
use service::{Lifecycle, settings::network};

use crate::{
    accounts::Accounts,
    clock::Clocks,
    http::{proxy::Upstream, request_metrics::RequestMetrics, under_way::UnderWay},
    pricing::routes::RouteTable,
    quota::Quotas,
    recording::{
        current_run::CurrentRun,
        publisher::Publisher,
        recorder::Recorder,
        responses::{ResponseSettings, Responses},
    },
};

#[derive(Args, Clone, Debug)]
pub struct HttpSettings {
    /// TOML file of the route table, which says what each call costs; without it, the built-in one is used
    #[arg(long, env = "ROUTES_FILE", value_name = "FILE")]
    pub routes: Option<PathBuf>,

    /// Addresses and networks of trusted proxies, comma-separated; only their X-Forwarded-For, -Proto and -Host are used
    #[arg(long, env = "TRUSTED_PROXIES", value_delimiter = ',', value_parser = network)]
    pub trusted_proxies: Vec<IpNet>,

    /// Maximum size of a body that the gateway reads itself: on /v1, and where the cost is the length of an array (bytes)
    #[arg(long, env = "BODY_MAX", default_value = "1048576")]
    pub body_max: usize,

    /// The `upgrade_url` in 402 and 429 responses
    #[arg(long, env = "UPGRADE_URL", default_value = "/billing/plans")]
    pub upgrade_url: String,

    #[command(flatten)]
    pub responses: ResponseSettings,
}

pub struct Gateway {
    pub accounts: Accounts,
    pub quotas: Quotas,
    pub recorder: Recorder,
    pub catalogue: Arc<Catalogue>,
    pub routes: RouteTable,
    /// `None`: only `/v1` is served.
    pub upstream: Option<Upstream>,
    /// Responses to requests of `/v1` with an `Idempotency-Key`.
    pub responses: Arc<Responses>,
    pub settings: HttpSettings,
    pub metrics: RequestMetrics,
    pub under_way: Arc<UnderWay>,
    /// Requests in progress, including those whose client left. Stopping it cuts them off.
    pub life: Lifecycle,
}

/// Parts of the gateway that requests use and that outlive them.
pub struct Parts {
    pub accounts: Accounts,
    pub quotas: Quotas,
    pub publisher: Publisher,
    pub current_run: CurrentRun,
    pub clocks: Clocks,
    pub catalogue: Arc<Catalogue>,
    pub routes: RouteTable,
    pub upstream: Option<Upstream>,
}

impl Gateway {
    pub fn new(parts: Parts, settings: HttpSettings, life: Lifecycle, registry: &mut Registry) -> Self {
        let metrics = RequestMetrics::new(registry);
        Self {
            accounts: parts.accounts,
            recorder: Recorder {
                quotas: parts.quotas.clone(),
                publisher: parts.publisher,
                current_run: parts.current_run,
                clocks: parts.clocks,
                metrics: metrics.recorder(),
            },
            quotas: parts.quotas,
            catalogue: parts.catalogue,
            routes: parts.routes,
            upstream: parts.upstream,
            responses: Arc::new(Responses::new(&settings.responses, registry)),
            settings,
            metrics,
            under_way: Arc::default(),
            life,
        }
    }
}
