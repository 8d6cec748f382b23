//! The connection to NATS. It reconnects by itself for ever; only a refusal of our credentials at the start is final.

use std::time::Duration;

use anyhow::{Result, bail};
use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event};
use clap::Args;
use tracing::{info, warn};

use crate::{Backoff, Health};

#[derive(Args, Clone, Debug)]
pub struct NatsSettings {
    /// NATS servers, comma separated
    #[arg(
        long,
        env = "NATS_URL",
        default_value = "nats://127.0.0.1:4222",
        hide_env_values = true
    )]
    pub nats_url: String,

    /// User, unless the URL has one
    #[arg(long, env = "NATS_USER", requires = "nats_password")]
    pub nats_user: Option<String>,

    /// Password
    #[arg(long, env = "NATS_PASSWORD", hide_env_values = true, requires = "nats_user")]
    pub nats_password: Option<String>,
}

/// Connects, trying until it works; fails at once where trying again cannot help. `health` follows the connection.
pub async fn connect(settings: &NatsSettings, name: &str, health: &Health) -> Result<Client> {
    const PART: &str = "nats";
    let servers = redacted(&settings.nats_url);
    health.down(PART, "connecting");
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    loop {
        let followed = health.clone();
        let mut options = ConnectOptions::new()
            .name(name)
            .connection_timeout(Duration::from_secs(5))
            // A dead peer is noticed after two unanswered pings.
            .ping_interval(Duration::from_secs(5))
            .max_reconnects(None)
            .reconnect_delay_callback(|tries| Duration::from_millis(50 << tries.min(6)))
            .event_callback(move |event| {
                let health = followed.clone();
                async move { follow(event, &health, PART) }
            });
        if let (Some(user), Some(password)) = (&settings.nats_user, &settings.nats_password) {
            options = options.user_and_password(user.clone(), password.clone());
        }
        let urls: Vec<&str> = settings.nats_url.split(',').map(str::trim).collect();
        match options.connect(urls).await {
            Ok(client) => {
                health.up(PART);
                return Ok(client);
            }
            Err(error) => match error.kind() {
                ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
                    bail!("NATS at {servers} refuses our user or password (NATS_URL, NATS_USER, NATS_PASSWORD)")
                }
                ConnectErrorKind::ServerParse => {
                    bail!("NATS_URL `{servers}` is not a list of URLs such as nats://127.0.0.1:4222")
                }
                kind => {
                    let delay = backoff.next_delay();
                    warn!(%servers, "no connection to NATS ({kind}): trying again in {delay:.1?}");
                    tokio::time::sleep(delay).await;
                }
            },
        }
    }
}

fn follow(event: Event, health: &Health, part: &'static str) {
    match event {
        Event::Connected => {
            info!("connected to NATS");
            health.up(part);
        }
        Event::Disconnected => {
            warn!("lost the connection to NATS: reconnecting");
            health.down(part, "disconnected");
        }
        Event::ServerError(error) => warn!("NATS: {error}"),
        Event::ClientError(error) => warn!("NATS client: {error}"),
        Event::SlowConsumer(subscription) => warn!(subscription, "a NATS subscription lags: messages were dropped"),
        _ => {}
    }
}

/// URLs without user and password: what may be shown.
pub fn redacted(urls: &str) -> String {
    let one = |url: &str| match url.rfind('@') {
        Some(at) => {
            // A scheme may be missing: `user:password@host` is an address too.
            let user = url[..at].find("://").map_or(0, |scheme| scheme + 3);
            format!("{}{}", &url[..user], &url[at + 1..])
        }
        None => url.to_owned(),
    };
    urls.split(',').map(one).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_of_a_url_has_no_password() {
        assert_eq!(
            redacted("nats://u:p@h:4222, nats://i:4222"),
            "nats://h:4222, nats://i:4222"
        );
        assert_eq!(redacted("postgres://u:p%40@h/db"), "postgres://h/db");
        assert_eq!(redacted("u:p@h:4222,h:4222"), "h:4222,h:4222");
    }
}
