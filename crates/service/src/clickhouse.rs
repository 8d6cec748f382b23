//! The ClickHouse client: HTTP, with one connection for each request in flight.

use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use clickhouse::Client;
use tracing::warn;

use crate::{Backoff, Health, Lifecycle, nats::redacted, root_cause::root_cause, settings::http_url};

#[derive(Args, Clone, Debug)]
pub struct ClickHouseSettings {
    /// URL of ClickHouse's HTTP interface; user and password have settings of their own
    #[arg(
        long,
        env = "CLICKHOUSE_URL",
        default_value = "http://127.0.0.1:8123",
        hide_env_values = true,
        value_parser = http_url
    )]
    pub clickhouse_url: String,

    /// Database
    #[arg(long, env = "CLICKHOUSE_DATABASE", default_value = "trendit")]
    pub clickhouse_database: String,

    /// User
    #[arg(long, env = "CLICKHOUSE_USER", default_value = "default")]
    pub clickhouse_user: String,

    /// Password
    #[arg(
        long,
        env = "CLICKHOUSE_PASSWORD",
        default_value = "",
        hide_default_value = true,
        hide_env_values = true
    )]
    pub clickhouse_password: String,
}

/// Creates a client without contacting the server.
pub fn client(settings: &ClickHouseSettings) -> Client {
    let client = Client::default()
        // Text before an `@` is not used, and would appear in log lines of the HTTP client.
        .with_url(redacted(&settings.clickhouse_url))
        .with_database(&settings.clickhouse_database)
        .with_user(&settings.clickhouse_user);
    match settings.clickhouse_password.as_str() {
        "" => client,
        password => client.with_password(password),
    }
}

/// The name on `/readyz`.
const PART: &str = "clickhouse";

/// Between two questions of [`watch`].
const EVERY: Duration = Duration::from_secs(2);
/// A server that is only busy answers in less.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// Keeps the state of the server on `/readyz` up to date, until the service stops. A server that hangs would otherwise show only when
/// a statement reaches its time limit.
pub async fn watch(client: Client, health: Health, life: Lifecycle) {
    let stopping = life.token();
    loop {
        let question = client.query("select 1").fetch_one::<u8>();
        let answer = tokio::time::timeout(ANSWERS_WITHIN, question);
        match stopping.run_until_cancelled(answer).await {
            None => return,
            Some(Ok(Ok(_))) => health.up(PART),
            Some(Ok(Err(error))) => {
                let why = root_cause(&error);
                health.down(PART, why.lines().next().unwrap_or_default());
            }
            Some(Err(_)) => health.down(PART, format!("no answer within {ANSWERS_WITHIN:?}")),
        }
        if stopping.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_none() {
            return;
        }
    }
}

/// Creates a client after the server has accepted our credentials. Tries until it does. Fails at once where a retry cannot
/// help.
pub async fn connect(settings: &ClickHouseSettings, health: &Health) -> Result<Client> {
    health.down(PART, "connecting");
    let server = redacted(&settings.clickhouse_url);
    let client = client(settings);
    // Do not use the database: the migrations create it.
    let probe = client.clone().with_database("default");
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    loop {
        match tokio::time::timeout(Duration::from_secs(10), probe.query("select 1").fetch_one::<u8>()).await {
            Ok(Ok(_)) => {
                health.up(PART);
                return Ok(client);
            }
            // 516: authentication failed, 192: unknown user, 497: not enough privileges.
            Ok(Err(clickhouse::error::Error::BadResponse(answer)))
                if ["Code: 516", "Code: 192", "Code: 497"]
                    .iter()
                    .any(|code| answer.contains(code)) =>
            {
                bail!(
                    "ClickHouse at {server} refuses the user or password (CLICKHOUSE_USER, CLICKHOUSE_PASSWORD): {}",
                    answer.lines().next().unwrap_or_default()
                )
            }
            failure => {
                let why = match failure {
                    Ok(Err(error)) => root_cause(&error),
                    _ => "no response within 10 s".to_owned(),
                };
                let delay = backoff.next_delay();
                warn!("no connection to ClickHouse at {server} (CLICKHOUSE_URL): {why}; retrying in {delay:.1?}");
                tokio::time::sleep(delay).await;
            }
        }
    }
}
