//! Asks PostgreSQL and NATS for their time, at each heartbeat.

use std::time::Duration;

use anyhow::{Context, Result};
use async_nats::Client;
use protocol::clock::{ANSWER_MAX_MS, Answer};
use schema::{clock, names::USAGE_STREAM};
use serde::Deserialize;
use service::{Backoff, Lifecycle};
use sqlx::PgPool;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{debug, warn};

use super::{Clocks, Server, elapsed_ms};

const PATIENCE: Duration = Duration::from_millis(ANSWER_MAX_MS.unsigned_abs());

/// Waits for the first answer of PostgreSQL. NATS is asked once, because a gateway with a spool starts without it.
pub async fn first(clocks: &Clocks, pool: &PgPool, client: &Client) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    heard(clocks, Server::Nats, ask_nats(client).await);
    while !heard(clocks, Server::Postgres, ask_postgres(pool).await) {
        let delay = backoff.next_delay();
        warn!("cannot compare the clock with PostgreSQL's: retrying in {delay:.1?}");
        tokio::time::sleep(delay).await;
    }
}

/// Compares the clocks at each interval until the service stops.
pub async fn follow(clocks: Clocks, pool: PgPool, client: Client, every: Duration, life: Lifecycle) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let watching = async {
        loop {
            ticks.tick().await;
            let (postgres, nats) = tokio::join!(ask_postgres(&pool), ask_nats(&client));
            heard(&clocks, Server::Postgres, postgres);
            heard(&clocks, Server::Nats, nats);
            clocks.look();
        }
    };
    life.token().run_until_cancelled(watching).await;
}

fn heard(clocks: &Clocks, server: Server, answer: Result<Answer>) -> bool {
    match answer {
        Ok(answer) => {
            clocks.hear(server, answer);
            true
        }
        Err(error) => {
            debug!(?server, "cannot compare the clock with a server's: {error:#}");
            false
        }
    }
}

async fn ask_postgres(pool: &PgPool) -> Result<Answer> {
    // The wait for a connection is not part of the answer.
    let mut connection = timeout(PATIENCE, pool.acquire()).await??;
    let asked_ms = elapsed_ms();
    let ask = sqlx::query_scalar!(r#"select (extract(epoch from clock_timestamp()) * 1000)::bigint as "now_ms!""#);
    let shown_ms = timeout(PATIENCE, ask.fetch_one(&mut *connection)).await;
    let Ok(shown_ms) = shown_ms else {
        // It waits for an answer that may never come.
        drop(connection.detach());
        anyhow::bail!("no answer within {PATIENCE:?}");
    };
    Ok(Answer {
        asked_ms,
        answered_ms: elapsed_ms(),
        shown_ms: shown_ms?,
    })
}

/// The answer about a stream has the server's time.
async fn ask_nats(client: &Client) -> Result<Answer> {
    #[derive(Deserialize)]
    struct StreamInfo {
        ts: String,
    }
    let asked_ms = elapsed_ms();
    let asking = client.request(format!("$JS.API.STREAM.INFO.{USAGE_STREAM}"), "".into());
    let answer = timeout(PATIENCE, asking).await??;
    let answered_ms = elapsed_ms();
    let info: StreamInfo = serde_json::from_slice(&answer.payload).context("reading the time of NATS")?;
    let shown = OffsetDateTime::parse(&info.ts, &Rfc3339).context("reading the time of NATS")?;
    Ok(Answer {
        asked_ms,
        answered_ms,
        shown_ms: clock::unix_ms(shown),
    })
}
