//! Spooling: a writer says in its row that it records to its spool because NATS is unavailable. Its silence then does not end it,
//! because it has acknowledged events that are not in the stream yet.
//!
//! A statement without an answer may be executed at any later time. So each time a writer starts to spool it counts up, and a
//! statement about an earlier time changes nothing.
//!
//! Each statement locks the writer's row only.

use schema::RunId;
use sqlx::PgExecutor;

/// `live` or `spooling` → `spooling`, for the `nth` time. False: the writer is being ended.
pub async fn start(db: impl PgExecutor<'_>, writer: RunId, nth: i64) -> sqlx::Result<bool> {
    let started = sqlx::query!(
        "update gateway_runs set state = 'spooling', spooled = $2
         where id = $1 and (state = 'live' and spooled < $2 or state = 'spooling' and spooled <= $2)",
        writer.0,
        nth,
    )
    .execute(db)
    .await?;
    Ok(started.rows_affected() > 0)
}

/// `spooling`, for the `nth` time, → `live`. False: the writer is being ended.
pub async fn stop(db: impl PgExecutor<'_>, writer: RunId, nth: i64) -> sqlx::Result<bool> {
    let stopped = sqlx::query!(
        "update gateway_runs set state = 'live' where id = $1 and spooled = $2 and state in ('live', 'spooling')",
        writer.0,
        nth,
    )
    .execute(db)
    .await?;
    Ok(stopped.rows_affected() > 0)
}

/// `live` or `spooling` → `fencing`: the writer's process died and all its lanes have ended. Others settle its leases.
pub async fn hand_over(db: impl PgExecutor<'_>, writer: RunId) -> sqlx::Result<()> {
    sqlx::query!(
        "update gateway_runs set state = 'fencing' where id = $1 and state in ('live', 'spooling')",
        writer.0,
    )
    .execute(db)
    .await?;
    Ok(())
}
