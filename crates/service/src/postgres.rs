//! The connection pool to PostgreSQL.

use std::{str::FromStr, time::Duration};

use anyhow::{Context, Result, bail};
use clap::Args;
use sqlx::{
    ConnectOptions, Connection, PgConnection, PgPool, Row,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::{Backoff, Health, Lifecycle, nats::redacted, root_cause::root_cause};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Args, Clone, Debug)]
pub struct PostgresSettings {
    /// URL of PostgreSQL: postgres://user:password@host:port/database
    #[arg(
        long,
        env = "DATABASE_URL",
        default_value = "postgres://postgres@127.0.0.1:5432/trendit",
        hide_env_values = true,
        value_parser = database_url
    )]
    pub database_url: String,

    /// Maximum number of connections
    #[arg(long, env = "DATABASE_CONNECTIONS", default_value = "8", value_parser = clap::value_parser!(u32).range(1..))]
    pub database_connections: u32,
}

impl PostgresSettings {
    /// The same server with half of the connections each, for two pools: the users of one cannot take the connections of the
    /// other. If the number is odd, the first half has one more.
    pub fn halves(&self) -> (Self, Self) {
        let second = self.database_connections / 2;
        let with = |connections| Self {
            database_connections: connections,
            ..self.clone()
        };
        (with(self.database_connections - second), with(second))
    }
}

/// Reads a URL of PostgreSQL. Does not show a password in it.
fn database_url(text: &str) -> Result<String, String> {
    // The parser accepts any scheme.
    let is_postgres = ["postgres://", "postgresql://"]
        .iter()
        .any(|scheme| text.starts_with(scheme));
    match is_postgres && PgConnectOptions::from_str(text).is_ok() {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "must be a URL such as postgres://user:password@host:5432/database, got `{}`",
            redacted(text)
        )),
    }
}

const PART: &str = "postgres";

/// How often the database is checked, and how long it may take to answer.
const CHECK_EVERY: Duration = Duration::from_secs(5);

/// A pool that keeps no connection with an open transaction.
///
/// A caller that is dropped while it waits for the response to `BEGIN` returns a connection inside a transaction. sqlx does not see
/// it, so nobody would end it: the next statements on that connection would wait for a `COMMIT` of somebody else, and keep their locks.
pub fn pool_options() -> PgPoolOptions {
    PgPoolOptions::new().after_release(|connection, _| Box::pin(is_outside_a_transaction(connection)))
}

/// Outside a transaction, a simple query begins its own. A prepared statement would begin it earlier, when it is parsed.
async fn is_outside_a_transaction(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let query = sqlx::raw_sql("select now() = statement_timestamp()");
    query.fetch_one(connection).await?.try_get(0)
}

/// Returns a pool after a first connection works. Tries until it does. Fails at once where a retry cannot help.
pub async fn connect(settings: &PostgresSettings, name: &str, health: &Health) -> Result<PgPool> {
    health.down(PART, "connecting");
    let server = redacted(&settings.database_url);
    let options = PgConnectOptions::from_str(&settings.database_url)
        .map_err(|_| anyhow::anyhow!("not a URL such as postgres://user:password@host:5432/database"))
        .with_context(|| format!("DATABASE_URL `{server}`"))?
        .application_name(name);
    let pool = pool_options()
        .max_connections(settings.database_connections)
        .acquire_timeout(CONNECT_TIMEOUT)
        .connect_lazy_with(options.clone());
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    loop {
        // Not through the pool, which hides why it has no connection.
        let why = match timeout(CONNECT_TIMEOUT, options.connect()).await {
            Ok(Ok(connection)) => {
                connection.close().await.ok();
                health.up(PART);
                return Ok(pool);
            }
            Ok(Err(error)) if is_final(&error) => {
                bail!(
                    "PostgreSQL at {server} (DATABASE_URL) refuses the connection: {}",
                    cause(&error)
                )
            }
            Ok(Err(error)) => cause(&error),
            Err(_) => format!("no answer within {CONNECT_TIMEOUT:?}"),
        };
        let delay = backoff.next_delay();
        warn!("no connection to PostgreSQL at {server} (DATABASE_URL): {why}; retrying in {delay:.1?}");
        sleep(delay).await;
    }
}

/// Keeps the state of the database on `/readyz` up to date. The pool reconnects by itself. `mark_unavailable` marks the part: as down,
/// or as replaced.
pub async fn watch(db: PgPool, health: Health, life: Lifecycle, mark_unavailable: fn(&Health, &'static str)) {
    let mut was_there = true;
    loop {
        tokio::select! {
            () = life.stopping() => return,
            () = sleep(CHECK_EVERY) => {}
        }
        let there = matches!(
            timeout(CHECK_EVERY, sqlx::query("select 1").execute(&db)).await,
            Ok(Ok(_))
        );
        match there {
            true => health.up(PART),
            false => mark_unavailable(&health, PART),
        }
        if there != was_there {
            match there {
                true => info!("PostgreSQL is available again"),
                false => warn!("PostgreSQL is unavailable"),
            }
            was_there = there;
        }
    }
}

/// What the server or the system says, without the parts around it.
fn cause(error: &sqlx::Error) -> String {
    match error.as_database_error() {
        Some(error) => error.message().to_owned(),
        None => root_cause(error),
    }
}

/// Wrong user or password (class 28), or unknown database (3D000).
fn is_final(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .and_then(|error| error.code())
        .is_some_and(|code| code.starts_with("28") || code == "3D000")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_url_of_postgres_is_accepted() {
        assert!(database_url("postgres://u:p%40@h:5432/d").is_ok());
        for text in ["", "mysql://u:hunter2@h/d", "h/d", "postgres://u:hunter2@h:port/d"] {
            let refusal = database_url(text).expect_err(text);
            assert!(!refusal.contains("hunter2"), "{refusal}");
        }
    }
}
