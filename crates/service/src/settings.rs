//! Settings that every service has, flattened into its own. `--help` names each with its variable and default.

use std::{net::SocketAddr, time::Duration};

use clap::{Args, ValueEnum};

#[derive(Args, Clone, Debug)]
pub struct ServiceSettings {
    /// Address of the admin port: /healthz, /readyz, /metrics (and, in the billing worker, the admin API)
    #[arg(long, env = "ADMIN_ADDR", default_value = "127.0.0.1:9090")]
    pub admin_addr: SocketAddr,

    /// How log lines look
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value = "text")]
    pub log_format: LogFormat,

    /// Which log lines are written: a level, or a filter such as `info,gateway=debug`
    #[arg(long, env = "LOG_FILTER", default_value = "info")]
    pub log_filter: String,

    /// How long a shutdown may take before what is left is dropped (seconds)
    #[arg(long, env = "SHUTDOWN_DEADLINE", default_value = "30", value_parser = seconds)]
    pub shutdown_deadline: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people
    Text,
    /// For machines: one object a line
    Json,
}

/// Reads a duration: seconds, with a fraction if need be (`0.2`).
pub fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| format!("`{text}` is not a number of seconds, such as 30 or 0.5"))?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err(format!("`{text}`: seconds are more than 0")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_may_have_a_fraction_and_are_positive() {
        assert_eq!(seconds("0.25"), Ok(Duration::from_millis(250)));
        for nonsense in ["0", "-1", "soon", "nan", "1e300"] {
            assert!(seconds(nonsense).is_err(), "{nonsense}");
        }
    }
}
