//! Settings, from arguments and environment: all checked before anything is connected or bound.

use std::{ffi::OsString, fs, net::SocketAddr, path::PathBuf, process::ExitCode, str::FromStr};

use clap::{ArgAction, CommandFactory, FromArgMatches, Parser, parser::ValueSource};
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
    cli::Command,
    notices::settings::NoticeSettings,
    reports::ReportSettings,
    runs::SettleSettings,
    stripe::StripeSettings,
    subscriptions::{billing::BillingSettings, turns},
};

/// Settings that were found to be in order.
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
    pub json: bool,
    pub catalogue: Catalogue,
    pub task: Task,
}

/// What the process is for.
pub enum Task {
    Run,
    Command(Command),
}

#[derive(Parser)]
#[command(
    name = "billing-worker",
    version,
    about = "Accounts, API keys, plans and limits of Trendit Usage. Without a command it runs the service."
)]
struct Arguments {
    #[command(flatten)]
    service: ServiceSettings,

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

    /// Bearer token of the admin API, /admin/* on the admin port; without one it is closed
    #[arg(long, env = "ADMIN_TOKEN", hide_env_values = true)]
    admin_token: Option<String>,

    /// Plan catalogue that takes the place of the built-in one
    #[arg(long, env = "PLANS_FILE", value_name = "FILE", global = true)]
    plans: Option<PathBuf>,

    /// Migrate the database at the start of the service (--migrate=false: leave it alone)
    #[arg(long, env = "BILLING_MIGRATE", action = ArgAction::Set, default_value = "true", num_args = 0..=1,
          require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    migrate: bool,

    /// Commands: print JSON, one value, on standard output
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    command: Option<Command>,
}

impl Settings {
    /// Reads and checks the arguments. The error is what the process exits with, already explained on standard error.
    pub fn read(args: impl IntoIterator<Item = OsString>) -> Result<Self, ExitCode> {
        Self::parse(args).map_err(|refusal| match refusal {
            Refusal::Usage(error) => {
                // Nothing can be told to whoever closed both outputs.
                error.print().ok();
                ExitCode::from(error.exit_code() as u8)
            }
            Refusal::Setting(problem) => {
                eprintln!("billing-worker: {problem}");
                ExitCode::from(2)
            }
        })
    }

    fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Self, Refusal> {
        // What says where the system is may stand behind a command, too.
        let command = [
            "database_url",
            "nats_url",
            "log_filter",
            "stripe_secret_key",
            "stripe_api_base",
        ]
        .into_iter()
        .fold(Arguments::command(), |command, id| {
            command.mut_arg(id, |arg| arg.global(true))
        });
        let matches = command.try_get_matches_from(args).map_err(Refusal::Usage)?;
        let mut arguments = Arguments::from_arg_matches(&matches).map_err(Refusal::Usage)?;
        let is_command = !matches!(arguments.command, None | Some(Command::Run));
        if is_command && matches.value_source("log_filter") == Some(ValueSource::DefaultValue) {
            // Whoever types a command wants to read what it did, not how it connected.
            arguments.service.log_filter = "warn,billing_worker=info".to_owned();
        }
        arguments.check().map_err(Refusal::Setting)
    }
}

enum Refusal {
    /// Wrong arguments; also `--help` and `--version`.
    Usage(clap::Error),
    Setting(String),
}

impl Arguments {
    fn check(self) -> Result<Settings, String> {
        let database = &self.postgres.database_url;
        // The parser takes any scheme.
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
        // An empty token, or one that no header can carry, would look like protection and be none.
        if let Some(token) = &self.admin_token
            && (token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()))
        {
            return Err("ADMIN_TOKEN is one or more printable ASCII characters without spaces".to_owned());
        }
        let connections = turns::TURNS + turns::CONNECTIONS_BESIDE;
        if matches!(self.command, None | Some(Command::Run))
            && (self.postgres.database_connections as usize) < connections
        {
            return Err(format!(
                "DATABASE_CONNECTIONS is {connections} or more: {} may wait for Stripe at a time",
                turns::TURNS
            ));
        }
        self.stripe.check()?;
        self.billing.check()?;
        if self.listen == self.service.admin_addr && self.listen.port() != 0 {
            return Err(format!(
                "BILLING_LISTEN and ADMIN_ADDR are both {}: they are two ports",
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
            json: self.json,
            task: match self.command {
                None | Some(Command::Run) => Task::Run,
                Some(command) => Task::Command(command),
            },
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

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(args: &[&str]) -> String {
        let args = ["billing-worker"].iter().chain(args).map(OsString::from);
        match Settings::parse(args) {
            Ok(_) => panic!("accepted"),
            Err(Refusal::Usage(error)) => error.to_string(),
            Err(Refusal::Setting(problem)) => problem,
        }
    }

    #[test]
    fn arguments_are_consistent() {
        Arguments::command().debug_assert();
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
    fn mistake_in_a_catalogue_file_is_named_with_file_and_line() {
        let path = std::env::temp_dir().join(format!("plans-{}.toml", uuid::Uuid::new_v4()));
        fs::write(&path, "usage_types = [\"a\"]\n\n[[plan]]\nid = \"free\"\nprize = 1\n").unwrap();
        let problem = problem(&["--plans", path.to_str().unwrap()]);
        fs::remove_file(&path).unwrap();
        assert!(problem.contains(&format!("{}:5: ", path.display())), "{problem}");
    }

    #[test]
    fn what_says_where_the_system_is_may_stand_behind_a_command() {
        let args = "billing-worker accounts list --json --database-url postgres://h/behind";
        let settings = Settings::parse(args.split(' ').map(OsString::from)).ok().unwrap();
        assert!(settings.json);
        assert_eq!(settings.postgres.database_url, "postgres://h/behind");
    }
}
