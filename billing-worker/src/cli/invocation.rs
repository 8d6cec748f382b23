//! Reads the command line: the settings, and what the process shall do.

use std::{ffi::OsString, process::ExitCode};

use clap::{CommandFactory, FromArgMatches, Parser, parser::ValueSource};

use super::Command;
use crate::config::{Settings, SettingsArguments};

/// The checked command line.
pub struct Invocation {
    pub settings: Settings,
    pub task: Task,
}

/// What the process does.
pub enum Task {
    RunService,
    Command { command: Command, json: bool },
}

#[derive(Parser)]
#[command(
    name = "billing-worker",
    version,
    about = "Accounts, API keys, plans, limits and billing of Trendit Usage. Runs the service, unless a command is given."
)]
struct Arguments {
    #[command(flatten)]
    settings: SettingsArguments,

    /// Commands: print one JSON value to standard output
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    command: Option<Command>,
}

impl Invocation {
    /// Reads and checks the arguments. On failure it explains the problem on standard error and returns the exit code.
    pub fn read(args: impl IntoIterator<Item = OsString>) -> Result<Self, ExitCode> {
        Self::parse(args).map_err(|refusal| match refusal {
            Refusal::Usage(error) => {
                // If both outputs are closed, nobody reads the message.
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
        // Connection settings may also follow a command.
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
        let task = match arguments.command {
            None | Some(Command::Run) => Task::RunService,
            Some(command) => Task::Command {
                command,
                json: arguments.json,
            },
        };
        if matches!(task, Task::Command { .. }) && matches.value_source("log_filter") == Some(ValueSource::DefaultValue)
        {
            // A command's user wants to see what it did, not how it connected.
            arguments.settings.service.log_filter = "warn,billing_worker=info".to_owned();
        }
        let settings = arguments.settings.check().map_err(Refusal::Setting)?;
        if matches!(task, Task::RunService) {
            settings.check_for_service().map_err(Refusal::Setting)?;
        }
        Ok(Self { settings, task })
    }
}

enum Refusal {
    /// Wrong arguments; also `--help` and `--version`.
    Usage(clap::Error),
    Setting(String),
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn problem(args: &[&str]) -> String {
        let args = ["billing-worker"].iter().chain(args).map(OsString::from);
        match Invocation::parse(args) {
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
    fn connection_settings_may_follow_a_command() {
        let args = "billing-worker accounts list --json --database-url postgres://h/behind";
        let invocation = Invocation::parse(args.split(' ').map(OsString::from)).ok().unwrap();
        assert!(matches!(invocation.task, Task::Command { json: true, .. }));
        assert_eq!(invocation.settings.postgres.database_url, "postgres://h/behind");
    }
}
