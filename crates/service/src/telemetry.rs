//! Logs, on standard error.

use std::io::{IsTerminal, stderr};

use anyhow::{Context, Result};
use clap::ValueEnum;
use tracing::Level;
use tracing_subscriber::{EnvFilter, fmt};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people
    Text,
    /// For machines: one JSON object per line
    Json,
}

/// Starts logging for the process. A second call fails.
pub fn init(filter: &str, format: LogFormat) -> Result<()> {
    let filter = EnvFilter::try_new(filter).context("reading the log filter")?;
    // A line that cannot be written (the disk of the log is full) is lost. A message about it could not be written either: it
    // would panic and end the task that logged.
    let logs = fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .log_internal_errors(false);
    match format {
        LogFormat::Text => logs.with_ansi(stderr().is_terminal()).try_init(),
        LogFormat::Json => logs
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .try_init(),
    }
    .map_err(|error| anyhow::anyhow!("could not start logging: {error}"))
}

/// Reads a log filter. Each directive must name a level, because `tracing` reads a misspelled level as the name of a
/// module.
pub fn log_filter(text: &str) -> Result<String, String> {
    let refused = |why: String| {
        Err(format!(
            "must be a level or a filter such as `info,gateway=debug`: {why}"
        ))
    };
    if let Err(error) = EnvFilter::try_new(text) {
        return refused(error.to_string());
    }
    // A span filter, `[span{field=value}]=level`, may contain commas and equals signs.
    if text.contains('[') {
        return Ok(text.to_owned());
    }
    let level = |directive: &str| directive.rsplit('=').next().unwrap_or_default().trim().to_owned();
    let unknown = text.split(',').map(level).find(|level| !is_level(level));
    match unknown {
        Some(level) => refused(format!("`{level}` is no level (off, error, warn, info, debug, trace)")),
        None => Ok(text.to_owned()),
    }
}

fn is_level(text: &str) -> bool {
    text.eq_ignore_ascii_case("off") || text.parse::<Level>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_filter_names_known_levels() {
        for filter in [
            "info",
            "WARN",
            "off",
            "info,gateway=debug",
            "warn,a::b=trace",
            "a[b{c=1}]=info",
        ] {
            assert!(log_filter(filter).is_ok(), "{filter}");
        }
        for filter in ["", "loud", "in=fo=", "info,gateway=loud", "gateway", "info,", "a[b"] {
            assert!(log_filter(filter).is_err(), "{filter}");
        }
    }
}
