//! Settings, from arguments and environment. All are checked before the process connects to anything or opens a port.

use std::{fs, net::SocketAddr, path::PathBuf, str::FromStr};

use clap::{ArgAction, Args};
use schema::Catalogue;
use service::{
    clickhouse::ClickHouseSettings,
    nats::{NatsSettings, redacted},
    postgres::PostgresSettings,
    server::ServerSettings,
    settings::ServiceSettings,
};
use sqlx::postgres::PgConnectOptions;

use crate::{
    notices::settings::NoticeSettings,
    reports::ReportSettings,
    runs::SettleSettings,
    stripe::StripeSettings,
    subscriptions::{billing::BillingSettings, turns},
};

/// Checked settings.
pub struct Settings {
    pub service: ServiceSettings,
    pub server: ServerSettings,
    pub postgres: PostgresSettings,
    pub nats: NatsSettings,
    pub clickhouse: ClickHouseSettings,
    pub stripe: StripeSettings,
    pub billing: BillingSettings,
    pub notices: NoticeSettings,
    pub reports: ReportSettings,
    pub settle: SettleSettings,
    pub listen: SocketAddr,
    /// `None`: the admin API is closed.
    pub admin_token: Option<String>,
    pub migrate: bool,
    pub catalogue: Catalogue,
}

/// The settings as they are read, before the check.
#[derive(Args)]
pub struct SettingsArguments {
    #[command(flatten)]
    pub service: ServiceSettings,

    #[command(flatten)]
    server: ServerSettings,

    #[command(flatten)]
    postgres: PostgresSettings,

    #[command(flatten)]
    nats: NatsSettings,

    #[command(flatten)]
    clickhouse: ClickHouseSettings,

    #[command(flatten)]
    stripe: StripeSettings,

    #[command(flatten)]
    billing: BillingSettings,

    #[command(flatten)]
    notices: NoticeSettings,

    #[command(flatten)]
    reports: ReportSettings,

    #[command(flatten)]
    settle: SettleSettings,

    /// Address of the public API, /billing/*
    #[arg(long, env = "BILLING_LISTEN", default_value = "127.0.0.1:8081")]
    listen: SocketAddr,

    /// Bearer token of the admin API (/admin/* on the admin port); without a token the admin API is closed
    #[arg(long, env = "ADMIN_TOKEN", hide_env_values = true)]
    admin_token: Option<String>,

    /// Plan catalogue file that replaces the built-in catalogue
    #[arg(long, env = "PLANS_FILE", value_name = "FILE", global = true)]
    plans: Option<PathBuf>,

    /// Migrate the database when the service starts (--migrate=false: do not)
    #[arg(long, env = "BILLING_MIGRATE", action = ArgAction::Set, default_value = "true", num_args = 0..=1,
          require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    migrate: bool,
}

impl Settings {
    /// Checks the requirements of the service that its commands do not have.
    pub fn check_for_service(&self) -> Result<(), String> {
        let connections = turns::TURNS + turns::CONNECTIONS_BESIDE;
        if (self.postgres.database_connections as usize) < connections {
            return Err(format!(
                "DATABASE_CONNECTIONS must be at least {connections}: up to {} of them may wait for Stripe",
                turns::TURNS
            ));
        }
        Ok(())
    }
}

impl SettingsArguments {
    pub fn check(self) -> Result<Settings, String> {
        let database = &self.postgres.database_url;
        // The parser accepts any scheme.
        let is_postgres = ["postgres://", "postgresql://"]
            .iter()
            .any(|scheme| database.starts_with(scheme));
        if !is_postgres || PgConnectOptions::from_str(database).is_err() {
            return Err(format!(
                "DATABASE_URL `{}` is not a URL such as postgres://user:password@host:5432/database",
                redacted(database)
            ));
        }
        for url in self.nats.nats_url.split(',').map(str::trim) {
            async_nats::ServerAddr::from_str(url).map_err(|_| {
                let shown = redacted(url);
                format!("NATS_URL `{shown}` is not a URL such as nats://127.0.0.1:4222")
            })?;
        }
        // An empty token, or one that a header cannot carry, would protect nothing.
        if let Some(token) = &self.admin_token
            && (token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()))
        {
            return Err("ADMIN_TOKEN must be one or more printable ASCII characters without spaces".to_owned());
        }
        self.stripe.check()?;
        self.billing.check()?;
        if self.listen == self.service.admin_addr && self.listen.port() != 0 {
            return Err(format!(
                "BILLING_LISTEN and ADMIN_ADDR are both {}: use two different ports",
                self.listen
            ));
        }
        Ok(Settings {
            catalogue: catalogue(self.plans)?,
            service: self.service,
            server: self.server,
            postgres: self.postgres,
            nats: self.nats,
            clickhouse: self.clickhouse,
            stripe: self.stripe,
            billing: self.billing,
            notices: self.notices,
            reports: self.reports,
            settle: self.settle,
            listen: self.listen,
            admin_token: self.admin_token,
            migrate: self.migrate,
        })
    }
}

fn catalogue(file: Option<PathBuf>) -> Result<Catalogue, String> {
    let Some(path) = file else {
        return Ok(Catalogue::built_in());
    };
    let text = fs::read_to_string(&path).map_err(|error| format!("plan catalogue {}: {error}", path.display()))?;
    Catalogue::parse(&text)
        .map_err(|error| format!("plan catalogue {}:{}: {}", path.display(), error.line, error.problem))
}
