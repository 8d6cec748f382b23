//! The connection to NATS. It reconnects without end. Only rejected credentials at the start are final.
//!
//! Replies arrive in an inbox of the user, `_INBOX.<user>.…`. So where users have permissions (`deploy/nats/users.conf`), no
//! service can read the replies to another one.
//!
//! User and password are removed from the URLs before the client gets them, because its log lines show complete URLs.

use std::{str::FromStr, time::Duration};

use anyhow::{Result, bail};
use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event, ServerAddr};
use clap::Args;
use tracing::{info, warn};

use crate::{Backoff, Health, root_cause::root_cause};

#[derive(Args, Clone, Debug)]
pub struct NatsSettings {
    /// URLs of the NATS servers, comma-separated
    #[arg(
        long,
        env = "NATS_URL",
        default_value = "nats://127.0.0.1:4222",
        hide_env_values = true,
        value_parser = nats_urls
    )]
    pub nats_url: String,

    /// User, if the URL names none
    #[arg(long, env = "NATS_USER", requires = "nats_password")]
    pub nats_user: Option<String>,

    /// Password
    #[arg(long, env = "NATS_PASSWORD", hide_env_values = true, requires = "nats_user")]
    pub nats_password: Option<String>,
}

/// Reads a list of servers. Does not show passwords in it.
fn nats_urls(text: &str) -> Result<String, String> {
    match text.split(',').map(str::trim).find(|url| !is_nats_url(url)) {
        Some(url) => Err(format!(
            "must be URLs such as nats://127.0.0.1:4222, got `{}`",
            redacted(url)
        )),
        None => Ok(text.to_owned()),
    }
}

/// The parser reads `http//host` as a host named `http` and a path. NATS has no paths.
fn is_nats_url(url: &str) -> bool {
    ServerAddr::from_str(url)
        .is_ok_and(|server| !server.host().is_empty() && matches!(server.into_inner().path(), "" | "/"))
}

/// Connects. Tries until it works. Fails at once where a retry cannot help. `health` follows the connection.
pub async fn connect(settings: &NatsSettings, name: &str, health: &Health) -> Result<Client> {
    const PART: &str = "nats";
    let servers = redacted(&settings.nats_url);
    health.down(PART, "connecting");
    let credentials = Credentials::of(settings);
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    loop {
        let followed = health.clone();
        let mut options = ConnectOptions::new()
            .name(name)
            .custom_inbox_prefix(credentials.inbox_prefix())
            .connection_timeout(Duration::from_secs(5))
            // A dead peer is detected after two unanswered pings.
            .ping_interval(Duration::from_secs(5))
            .max_reconnects(None)
            .reconnect_delay_callback(|tries| Duration::from_millis(50 << tries.min(6)))
            .event_callback(move |event| {
                let health = followed.clone();
                async move { follow(event, &health, PART) }
            });
        options = match credentials.clone() {
            Credentials::None => options,
            Credentials::Token(token) => options.token(token),
            Credentials::User(user, password) => options.user_and_password(user, password),
        };
        let urls: Vec<&str> = servers.split(',').map(str::trim).collect();
        match options.connect(urls).await {
            Ok(client) => {
                health.up(PART);
                return Ok(client);
            }
            Err(error) => match error.kind() {
                ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
                    bail!("NATS at {servers} refuses the user or password (NATS_URL, NATS_USER, NATS_PASSWORD)")
                }
                ConnectErrorKind::ServerParse => {
                    bail!("NATS_URL `{servers}` is not a list of URLs such as nats://127.0.0.1:4222")
                }
                _ => {
                    let (why, delay) = (root_cause(&error), backoff.next_delay());
                    warn!("no connection to NATS at {servers} (NATS_URL): {why}; retrying in {delay:.1?}");
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

/// Our credentials.
#[derive(Clone, PartialEq, Eq)]
enum Credentials {
    None,
    Token(String),
    User(String, String),
}

impl Credentials {
    /// The credentials of the first URL that has any, otherwise those of the settings.
    fn of(settings: &NatsSettings) -> Self {
        let mut in_urls = settings.nats_url.split(',').filter_map(|url| {
            let (before, _) = url.trim().rsplit_once('@')?;
            Some(before.split_once("://").map_or(before, |(_, credentials)| credentials))
        });
        match (in_urls.next(), &settings.nats_user, &settings.nats_password) {
            (Some(credentials), _, _) => match credentials.split_once(':') {
                Some((user, password)) => Self::User(user.to_owned(), password.to_owned()),
                None => Self::Token(credentials.to_owned()),
            },
            (None, Some(user), Some(password)) => Self::User(user.clone(), password.clone()),
            _ => Self::None,
        }
    }

    fn inbox_prefix(&self) -> String {
        let is_token = |user: &str| {
            !user.is_empty()
                && user
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        };
        match self {
            Self::User(user, _) if is_token(user) => format!("_INBOX.{user}"),
            _ => "_INBOX".to_owned(),
        }
    }
}

/// Returns the URLs without user and password, safe to show.
pub fn redacted(urls: &str) -> String {
    let one = |url: &str| match url.rfind('@') {
        Some(at) => {
            // The scheme may be missing: `user:password@host` is an address too.
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
    fn each_user_has_an_inbox_of_its_own() {
        let read = |url: &str, user: Option<&str>| {
            let credentials = Credentials::of(&NatsSettings {
                nats_url: url.to_owned(),
                nats_user: user.map(str::to_owned),
                nats_password: user.map(|_| "s".to_owned()),
            });
            let prefix = credentials.inbox_prefix();
            match credentials {
                Credentials::None => ("", String::new(), prefix),
                Credentials::Token(token) => ("token", token, prefix),
                Credentials::User(user, password) => ("user", format!("{user} {password}"), prefix),
            }
        };
        for (url, user, kind, who, prefix) in [
            ("nats://h:4222", None, "", "", "_INBOX"),
            ("nats://h:4222", Some("gateway"), "user", "gateway s", "_INBOX.gateway"),
            ("nats://a:p@h, nats://b:q@i", Some("gateway"), "user", "a p", "_INBOX.a"),
            (
                "h:4222, billing-worker:p:q@h",
                None,
                "user",
                "billing-worker p:q",
                "_INBOX.billing-worker",
            ),
            ("nats://secret@h:4222", None, "token", "secret", "_INBOX"),
            ("nats://a.b:p@h:4222", None, "user", "a.b p", "_INBOX"),
        ] {
            assert_eq!(read(url, user), (kind, who.to_owned(), prefix.to_owned()), "{url}");
        }
    }

    #[test]
    fn each_server_is_a_url() {
        for urls in ["nats://h:4222", "h:4222", "tls://u:p@h, nats://i:4222/"] {
            assert!(nats_urls(urls).is_ok(), "{urls}");
        }
        for urls in [
            "",
            "nats://",
            "nats://u:hunter2@",
            "http//u:hunter2@h",
            "nats://h:port",
            "nats://h:4222,",
        ] {
            let refusal = nats_urls(urls).expect_err(urls);
            assert!(!refusal.contains("hunter2"), "{refusal}");
        }
    }

    #[test]
    fn a_url_is_shown_without_its_password() {
        assert_eq!(
            redacted("nats://u:p@h:4222, nats://i:4222"),
            "nats://h:4222, nats://i:4222"
        );
        assert_eq!(redacted("postgres://u:p%40@h/db"), "postgres://h/db");
        assert_eq!(redacted("u:p@h:4222,h:4222"), "h:4222,h:4222");
    }
}
