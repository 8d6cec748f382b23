//! How every service starts: settings → check → build → run → drain. One function, so that the services cannot differ.
//!
//! 1. Settings come from the command line and the environment. Sub-commands take the same settings as the service.
//! 2. All settings are checked before anything is connected or bound. All mistakes are shown together, each with the
//!    setting's flag and environment variable.
//! 3. Logging starts, then the async runtime.
//! 4. The service is built (its ports are bound), runs until SIGTERM or SIGINT, and drains; or the sub-command runs.
//!
//! | exit code | meaning |
//! |---|---|
//! | 0 | success |
//! | 1 | a failure, or an incomplete shutdown |
//! | 2 | a wrong setting or argument |

use std::{ffi::OsString, future::Future, pin::Pin, process::ExitCode, time::Duration};

use anyhow::{Error, Result, bail};
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, parser::ValueSource};

use crate::{Lifecycle, settings::ServiceSettings, telemetry};

mod mistakes;
mod reading;

pub use mistakes::Mistakes;

/// How long the runtime waits for blocking tasks (such as a DNS look-up) after everything else has ended.
const BLOCKED_WAIT: Duration = Duration::from_secs(1);

/// How long a sub-command waits for a server.
const COMMAND_PATIENCE: Duration = Duration::from_secs(10);

/// A service and its sub-commands.
pub trait Service {
    /// The name of the service in messages.
    const NAME: &'static str;
    /// The default log filter of sub-commands.
    const COMMAND_LOG_FILTER: &'static str = "info";
    /// The settings, and the sub-command if there is one.
    type Arguments: Parser;
    /// The checked settings, with the content of the files that they name.
    type Config;
    type Application: Application;

    fn settings(arguments: &mut Self::Arguments) -> &mut ServiceSettings;

    /// Checks rules that involve several settings, and reads the files. Returns `None` only if it added a mistake.
    fn check(arguments: Self::Arguments, mistakes: &mut Mistakes) -> Option<Task<Self::Config>>;

    /// Binds the ports.
    fn build(config: Self::Config) -> impl Future<Output = Result<Self::Application>>;
}

/// The task of the process.
pub enum Task<Config> {
    Serve(Config),
    Command(Pin<Box<dyn Future<Output = Result<()>>>>),
}

/// A service with its ports bound.
pub trait Application {
    fn life(&self) -> Lifecycle;

    /// Serves until [`Lifecycle::stop`], then drains within the deadline. Fails if the drain is incomplete.
    fn run_until_stopped(self) -> impl Future<Output = Result<()>>;
}

/// Runs the service until it is stopped, or one sub-command. `args[0]` is the program's name.
pub fn boot<S: Service>(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let (task, settings) = match read::<S>(args) {
        Ok(read) => read,
        Err(refusal) => return refusal.show(S::NAME),
    };
    if let Err(error) = telemetry::init(&settings.log_filter, settings.log_format) {
        return failed::<S>(&error);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed::<S>(&Error::new(error).context("starting the async runtime")),
    };
    let done = runtime.block_on(run::<S>(task, settings.shutdown_delay));
    runtime.shutdown_timeout(BLOCKED_WAIT);
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed::<S>(&error),
    }
}

async fn run<S: Service>(task: Task<S::Config>, delay: Duration) -> Result<()> {
    match task {
        Task::Command(command) => command.await,
        Task::Serve(config) => {
            let application = S::build(config).await?;
            application.life().stop_on_signals(delay)?;
            application.run_until_stopped().await
        }
    }
}

/// Returns the connection of a sub-command, which does not wait for a server as long as a service does.
pub async fn soon<T>(server: &str, connect: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(COMMAND_PATIENCE, connect).await {
        Ok(connected) => connected,
        Err(_) => bail!("could not connect to {server} within {COMMAND_PATIENCE:?} (the log shows why)"),
    }
}

fn failed<S: Service>(error: &Error) -> ExitCode {
    // Write to standard error directly, because the log filter could hide the message.
    eprintln!("{}: {error:#}", S::NAME);
    ExitCode::FAILURE
}

/// Reads and checks the settings.
pub fn read<S: Service>(
    args: impl IntoIterator<Item = OsString>,
) -> Result<(Task<S::Config>, ServiceSettings), Refusal> {
    let (mut arguments, mut mistakes) = arguments::<S>(args)?;
    let settings = S::settings(&mut arguments).clone();
    match S::check(arguments, &mut mistakes) {
        Some(task) if mistakes.is_empty() => Ok((task, settings)),
        _ => Err(Refusal::Settings(mistakes)),
    }
}

/// Reads the settings and checks each one alone.
pub fn arguments<S: Service>(args: impl IntoIterator<Item = OsString>) -> Result<(S::Arguments, Mistakes), Refusal> {
    let args: Vec<OsString> = args.into_iter().collect();
    let command = S::Arguments::command();
    // The short help of a sub-command, `-h`, shows only its own arguments.
    let of_command = command
        .get_subcommands()
        .any(|sub| args.iter().any(|arg| arg == sub.get_name()));
    // Settings are accepted before and after a sub-command.
    let command = command.mut_args(|arg| arg.global(true).hide_short_help(of_command));
    let mut mistakes = Mistakes::of(&command);
    let Some(matches) = reading::matches(command, &args, &mut mistakes).map_err(Refusal::Usage)? else {
        return Err(Refusal::Settings(mistakes));
    };
    let mut arguments = S::Arguments::from_arg_matches(&matches).map_err(Refusal::Usage)?;
    if is_command(&matches) && matches.value_source("log_filter") == Some(ValueSource::DefaultValue) {
        S::COMMAND_LOG_FILTER.clone_into(&mut S::settings(&mut arguments).log_filter);
    }
    Ok((arguments, mistakes))
}

fn is_command(matches: &ArgMatches) -> bool {
    matches.subcommand_name().is_some_and(|name| name != "run")
}

/// Why the process ends before it starts.
#[derive(Debug)]
pub enum Refusal {
    /// Unknown or missing arguments; also `--help` and `--version`.
    Usage(clap::Error),
    Settings(Mistakes),
}

impl Refusal {
    fn show(&self, name: &str) -> ExitCode {
        match self {
            Self::Usage(error) => {
                // If the output is closed, nobody reads it.
                error.print().ok();
                ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
            }
            Self::Settings(mistakes) => {
                eprint!("{}", mistakes.shown(name));
                ExitCode::from(2)
            }
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Usage(error) => error.fmt(f),
            Self::Settings(mistakes) => f.write_str(&mistakes.shown("settings")),
        }
    }
}
