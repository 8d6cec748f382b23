//! Logs, on standard error.

use std::io::{IsTerminal, stderr};

use anyhow::{Context, Result};
use tracing_subscriber::{EnvFilter, fmt};

use crate::settings::{LogFormat, ServiceSettings};

/// Starts logging for the process. Once; a second call fails.
pub fn init(settings: &ServiceSettings) -> Result<()> {
    let filter = EnvFilter::try_new(&settings.log_filter).with_context(|| {
        format!(
            "--log-filter `{}` is not a filter such as `info,gateway=debug`",
            settings.log_filter
        )
    })?;
    // A line that cannot be written (the disk of the log is full) is lost. Telling of it, where it cannot be written either,
    // would panic, and end the task that had something to say.
    let logs = fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .log_internal_errors(false);
    match settings.log_format {
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
