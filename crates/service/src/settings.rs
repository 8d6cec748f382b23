//! Settings that every service has, and how setting values are read. `--help` shows each with its variable and default.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use clap::Args;
use http::Uri;
use ipnet::IpNet;

use crate::telemetry::{LogFormat, log_filter};

#[derive(Args, Clone, Debug)]
pub struct ServiceSettings {
    /// Address of the admin port: /healthz, /readyz, /metrics (and, in the billing worker, the admin API)
    #[arg(long, env = "ADMIN_ADDR", default_value = "127.0.0.1:9090")]
    pub admin_addr: SocketAddr,

    /// Format of log lines
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value = "text")]
    pub log_format: LogFormat,

    /// Which log lines are written: a level, or a filter such as `info,gateway=debug`
    #[arg(long, env = "LOG_FILTER", default_value = "info", value_parser = log_filter)]
    pub log_filter: String,

    /// How long the service still takes requests after SIGTERM, while /readyz is 503 already: as long as a load balancer needs to notice
    /// it (seconds)
    #[arg(long, env = "SHUTDOWN_DELAY", default_value = "0", value_parser = seconds_or_none)]
    pub shutdown_delay: Duration,

    /// How long a shutdown may take after SHUTDOWN_DELAY; work that is left after that is dropped (seconds)
    #[arg(long, env = "SHUTDOWN_DEADLINE", default_value = "30", value_parser = seconds)]
    pub shutdown_deadline: Duration,

    /// Address of the API's documentation (docs/api.md), for the member `type` of error bodies
    #[arg(long, env = "PROBLEM_TYPE_BASE", default_value = problem::TYPE_BASE, value_name = "URL", value_parser = page)]
    pub problem_type_base: String,
}

/// 100 years: the clocks of a process can add it to any time.
const SECONDS_MAX: u32 = 100 * 365 * 24 * 3_600;

/// Reads a duration in seconds, which may have a fraction (`0.2`).
pub fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| format!("must be a number of seconds, such as 30 or 0.5, got `{text}`"))?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if !duration.is_zero() && seconds <= f64::from(SECONDS_MAX) => Ok(duration),
        _ => Err(format!(
            "must be more than 0 and at most {SECONDS_MAX} seconds (100 years), got `{text}`"
        )),
    }
}

/// Does the same, and accepts 0.
pub fn seconds_or_none(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(0.0) => Ok(Duration::ZERO),
        _ => seconds(text).map_err(|error| error.replace("more than 0", "0 or more")),
    }
}

/// Reads an integer of `LEAST` or more.
pub fn at_least<const LEAST: usize>(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if number >= LEAST => Ok(number),
        _ => Err(format!("must be an integer of {LEAST} or more, got `{text}`")),
    }
}

/// Reads an address of an HTTP server. Does not show a password in it.
pub fn http_url(text: &str) -> Result<String, String> {
    let is_url = |url: Uri| {
        let (Some("http" | "https"), Some(server)) = (url.scheme_str(), url.authority()) else {
            return false;
        };
        let (host, whole) = (server.host(), server.as_str());
        // The parser accepts any text as a port.
        !host.is_empty() && (whole.ends_with(host) || server.port_u16().is_some())
    };
    match text.parse().is_ok_and(is_url) {
        true => Ok(text.to_owned()),
        // Do not show the text: it can contain a password, or be a secret that was set here by mistake.
        false => Err(
            "must be an http or https URL with a host, such as https://billing.example.com or http://127.0.0.1:8080"
                .to_owned(),
        ),
    }
}

/// Reads a network of addresses, such as `10.0.0.0/8`, or one address.
pub fn network(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    network.map_err(|_| format!("must be addresses such as 10.1.2.3 and networks such as 10.0.0.0/8, got `{text}`"))
}

/// Reads a URL, or the path of one. The name of a problem is appended as its fragment.
fn page(text: &str) -> Result<String, String> {
    let is_page = text.parse::<Uri>().is_ok() && !text.contains('#');
    match is_page {
        true => Ok(text.to_owned()),
        false => Err(format!("must be a URL or a path without a fragment, got `{text}`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_may_have_a_fraction_and_are_positive() {
        assert_eq!(seconds("0.25"), Ok(Duration::from_millis(250)));
        assert_eq!(seconds_or_none("0"), Ok(Duration::ZERO));
        assert!(seconds_or_none("-1").unwrap_err().contains("0 or more"));
        for nonsense in ["0", "-1", "soon", "nan", "inf", "1e30", "1e300", "3153600001"] {
            assert!(seconds(nonsense).is_err(), "{nonsense}");
        }
        assert!(seconds("1e30").unwrap_err().contains("at most 3153600000 seconds"));
        assert!(seconds("3153600000").is_ok());
    }

    #[test]
    fn a_network_contains_the_addresses_with_its_prefix() {
        for (text, address, inside) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.9.9.9/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            (" 10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3", "10.1.2.2", false),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("::/0", "2001:db8::1", true),
            ("::/0", "10.0.0.1", false),
            ("fd00::/8", "fdff::1", true),
            ("fd00::/8", "fe00::1", false),
            ("192.168.1.128/25", "192.168.1.127", false),
        ] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(network(text).unwrap().contains(&address), inside, "{text} {address}");
        }
        for text in [
            "",
            "10.0.0.0/33",
            "fd00::/129",
            "10.0.0/8",
            "localhost",
            "10.0.0.1/",
            "10.0.0.1/-1",
        ] {
            assert!(network(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_http_url_has_a_scheme_and_a_host() {
        for url in [
            "http://127.0.0.1:8123",
            "https://h/base",
            "http://u:p@h",
            "http://[::1]:1",
        ] {
            assert!(http_url(url).is_ok(), "{url}");
        }
        for text in [
            "",
            "h:8123",
            "localhost",
            "ftp://h",
            "http://",
            "http://h:port",
            "http//h",
        ] {
            assert!(http_url(text).is_err(), "{text}");
        }
        assert!(!http_url("ftp://u:hunter2@h").unwrap_err().contains("hunter2"));
    }

    #[test]
    fn documentation_is_at_a_url_or_a_path() {
        for text in [problem::TYPE_BASE, "https://docs.example.com/api"] {
            assert!(page(text).is_ok(), "{text}");
        }
        for text in ["", "docs api", "/api.md#errors"] {
            assert!(page(text).is_err(), "{text}");
        }
    }
}
