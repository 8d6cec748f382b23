//! What every request is decided with. Built once; shared by all requests.

use std::{path::PathBuf, sync::Arc};

use clap::Args;
use prometheus_client::registry::Registry;
use schema::Catalogue;
use service::{Lifecycle, network::Network};

use crate::{
    accounts::Accounts,
    http::{proxy::Upstream, request_metrics::RequestMetrics},
    pricing::routes::RouteTable,
    quota::quotas::Quotas,
    recording::{
        answers::{AnswerSettings, Answers},
        current_run::CurrentRun,
        publisher::Publisher,
    },
};

#[derive(Args, Clone, Debug)]
pub struct HttpSettings {
    /// TOML file of the route table: what each call costs; absent: the built-in one
    #[arg(long, env = "ROUTES_FILE", value_name = "FILE")]
    pub routes: Option<PathBuf>,

    /// Addresses and networks, comma separated, whose X-Forwarded-For, -Proto and -Host are believed
    #[arg(long, env = "TRUSTED_PROXIES", value_delimiter = ',')]
    pub trusted_proxies: Vec<Network>,

    /// The largest body that is read here: of /v1, and where the cost is the length of an array in it (bytes)
    #[arg(long, env = "BODY_MAX", default_value = "1048576")]
    pub body_max: usize,

    /// What 402 and 429 answers name as `upgrade_url`
    #[arg(long, env = "UPGRADE_URL", default_value = "/billing/plans")]
    pub upgrade_url: String,

    #[command(flatten)]
    pub answers: AnswerSettings,
}

pub struct Gateway {
    pub accounts: Accounts,
    pub quotas: Quotas,
    pub publisher: Publisher,
    pub current_run: CurrentRun,
    pub catalogue: Arc<Catalogue>,
    pub routes: RouteTable,
    /// `None`: only `/v1` is served.
    pub upstream: Option<Upstream>,
    /// To requests of `/v1` with an `Idempotency-Key`.
    pub answers: Arc<Answers>,
    pub settings: HttpSettings,
    pub metrics: RequestMetrics,
    /// Of what was asked for: told to stop, it is cut off.
    pub life: Lifecycle,
}

impl Gateway {
    #[allow(clippy::too_many_arguments, reason = "the parts of the gateway, each once")]
    pub fn new(
        accounts: Accounts,
        quotas: Quotas,
        publisher: Publisher,
        current_run: CurrentRun,
        catalogue: Arc<Catalogue>,
        routes: RouteTable,
        upstream: Option<Upstream>,
        settings: HttpSettings,
        life: Lifecycle,
        registry: &mut Registry,
    ) -> Self {
        Self {
            accounts,
            quotas,
            publisher,
            current_run,
            catalogue,
            routes,
            upstream,
            answers: Arc::new(Answers::new(&settings.answers, registry)),
            settings,
            metrics: RequestMetrics::new(registry),
            life,
        }
    }
}
