//! Settings, from arguments and environment. All are checked before the process connects to anything or opens a port.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use clap::{ArgAction, Args};
use schema::{Catalogue, catalogue::TrialOverage};
use service::{
    boot::Mistakes, clickhouse::ClickHouseSettings, nats::NatsSettings, postgres::PostgresSettings,
    server::ServerSettings, settings::ServiceSettings,
};

use crate::{
    notices::settings::NoticeSettings, reports::ReportSettings, runs::SettleSettings, stripe::StripeSettings,
    subscriptions::billing::BillingSettings,
};

/// Requests have half of the connections. Events and periodic jobs share the others. None of them keeps one while it waits for
/// another system.
const CONNECTIONS_MIN: u32 = 8;

#[derive(Args)]
pub struct Settings {
    /// Address of the public API, /billing/*
    #[arg(long, env = "BILLING_LISTEN", default_value = "127.0.0.1:8081")]
    pub listen: SocketAddr,

    /// Bearer token of the admin API (/admin/* on the admin port); without a token the admin API is closed
    #[arg(long, env = "ADMIN_TOKEN", hide_env_values = true)]
    pub admin_token: Option<String>,

    /// Plan catalogue file that replaces the built-in catalogue
    #[arg(long, env = "PLANS_FILE", value_name = "FILE")]
    plans: Option<PathBuf>,

    /// What a trial may use beyond what its plan includes: nothing (refuse), or as much as it wants without a bill (free); the same
    /// for all gateways and billing workers
    #[arg(long, env = "TRIAL_OVERAGE", default_value = "refuse", value_name = "refuse|free")]
    trial_overage: TrialOverage,

    /// Migrate the database when the service starts (--migrate=false: do not)
    #[arg(long, env = "BILLING_MIGRATE", action = ArgAction::Set, default_value = "true", num_args = 0..=1,
          require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub migrate: bool,

    #[command(flatten, next_help_heading = "Servers")]
    pub postgres: PostgresSettings,
    #[command(flatten)]
    pub nats: NatsSettings,
    #[command(flatten)]
    pub clickhouse: ClickHouseSettings,
    #[command(flatten, next_help_heading = "Stripe")]
    pub stripe: StripeSettings,
    #[command(flatten)]
    pub billing: BillingSettings,
    #[command(flatten, next_help_heading = "Usage notices")]
    pub notices: NoticeSettings,
    #[command(flatten, next_help_heading = "Meter reports")]
    pub reports: ReportSettings,
    #[command(flatten, next_help_heading = "Dead gateways")]
    pub settle: SettleSettings,
    #[command(flatten, next_help_heading = "Connections of clients")]
    pub server: ServerSettings,
    #[command(flatten, next_help_heading = "Service")]
    pub service: ServiceSettings,

    /// The built-in one, or that of the file.
    #[arg(skip = Catalogue::built_in())]
    pub catalogue: Catalogue,
}

impl Settings {
    /// Checks the settings that the service and the sub-commands share, and reads the catalogue.
    pub fn check(&mut self, mistakes: &mut Mistakes) {
        // An empty token protects nothing, and a header cannot contain other characters.
        let is_token = |token: &String| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
        mistakes.ensure(
            self.admin_token.as_ref().is_none_or(is_token),
            "admin_token",
            "must be one or more printable ASCII characters without spaces",
        );
        self.stripe.check(mistakes);
        self.billing.check(mistakes);
        self.reports.check(mistakes);
        if let Some(file) = &self.plans
            && let Some(catalogue) = mistakes.take("plans", catalogue(file))
        {
            self.catalogue = catalogue;
        }
        self.catalogue = self.catalogue.clone().with_trial_overage(self.trial_overage);
    }

    /// Checks the settings that only the service uses.
    pub fn check_service(&self, mistakes: &mut Mistakes) {
        mistakes.ensure(
            self.postgres.database_connections >= CONNECTIONS_MIN,
            "database_connections",
            format_args!(
                "must be {CONNECTIONS_MIN} or more, because requests, events and periodic jobs share them, got {}",
                self.postgres.database_connections
            ),
        );
        mistakes.ensure(
            self.listen != self.service.admin_addr || self.listen.port() == 0,
            "listen",
            format_args!("must differ from ADMIN_ADDR, got {} for both", self.listen),
        );
        self.settle.check(mistakes);
    }
}

fn catalogue(path: &Path) -> Result<Catalogue, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("reading {}: {error}", path.display()))?;
    Catalogue::parse(&text).map_err(|error| format!("{}:{}: {}", path.display(), error.line, error.problem))
}
