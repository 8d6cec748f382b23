//! Writers: each start of a gateway, and each session in which a billing worker publishes corrections. A writer owns lanes
//! and leases. Its row is in `gateway_runs`, its name in the column `gateway`.
//!
//! | state | meaning |
//! |---|---|
//! | `live` | it takes leases and records |
//! | `spooling` | NATS is unavailable: it records to its spool (see [`crate::spooling`]) |
//! | `fencing` | it is being ended: it gets no lease, and its leases are settled |
//! | `closed` | it stopped and gave back all its leases |
//! | `settled` | it has no live lease and no open lane |
//!
//! Each statement that changes a writer locks its row only.

use std::time::Duration;

use protocol::run::RunState;
use schema::RunId;
use sqlx::{PgConnection, PgExecutor};
use time::OffsetDateTime;
use uuid::Uuid;

/// A writer, as its own process needs it after a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Writer {
    pub state: RunState,
    pub generation: i32,
    pub shards: i32,
    /// How often it started to spool.
    pub spooled: i64,
}

/// A locked writer, and how many gateways share the pools with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granting {
    pub state: RunState,
    /// Writers whose heartbeat moved within the last 15 seconds.
    pub gateways: i64,
    /// What PostgreSQL's clock showed, in Unix milliseconds.
    pub now_ms: i64,
}

/// A writer that ended and is not settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    pub id: RunId,
    /// [`RunState::Fencing`] or [`RunState::Closed`].
    pub state: RunState,
    pub shards: i32,
    pub started_at: OffsetDateTime,
}

/// A writer whose events may not all be in ClickHouse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsettled {
    pub id: RunId,
    pub state: RunState,
    /// Of the stream that it publishes to.
    pub generation: u32,
}

/// How many writers are in a state that is not `settled`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateCount {
    pub state: RunState,
    pub writers: i64,
    /// Of those that are being fenced: seconds since the oldest heartbeat. 0 for other states.
    pub oldest_s: i64,
}

/// The name of every billing worker. No gateway may have it.
pub const BILLING_WORKER: &str = "billing-worker";

/// A writer, as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub id: Uuid,
    pub gateway: String,
    pub state: RunState,
    pub started_at: OffsetDateTime,
    /// By the database's clock, as all ages here.
    pub age_s: i64,
    pub heartbeat_age_s: i64,
    pub ended_at: Option<OffsetDateTime>,
    pub live_leases: i64,
    /// Units of its live leases that it has not given back.
    pub held_units: i64,
}

/// The state of a row. Fails for a text that is no state of this build.
fn state(text: &str) -> sqlx::Result<RunState> {
    let unknown = || sqlx::Error::Decode(format!("gateway_runs.state is `{text}`, which is no state of a run").into());
    RunState::parse(text).ok_or_else(unknown)
}

/// A correction whose writer ended before it was recorded as published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenCorrection {
    pub id: Uuid,
    pub account_id: Uuid,
    pub run_id: Uuid,
    pub shards: i32,
    /// It was handed to the writer more than 20 days ago.
    pub is_old: bool,
}

/// Inserts a writer. Repeating it changes nothing.
pub async fn register(
    db: impl PgExecutor<'_>,
    id: RunId,
    name: &str,
    generation: u32,
    shards: u16,
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into gateway_runs (id, gateway, generation, shards) values ($1, $2, $3, $4)
                 on conflict (id) do nothing",
        id.0,
        name,
        generation.cast_signed(),
        i32::from(shards),
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Counts the heartbeat up. False: the writer is being ended.
pub async fn beat(db: impl PgExecutor<'_>, id: RunId) -> sqlx::Result<bool> {
    let counted = sqlx::query!(
        "update gateway_runs set heartbeat = heartbeat + 1, heartbeat_at = now()
             where id = $1 and state in ('live', 'spooling')",
        id.0,
    )
    .execute(db)
    .await?;
    Ok(counted.rows_affected() > 0)
}

/// `live` or `spooling` → `closed`. False: the writer still holds leases, or is being ended.
pub async fn close(db: impl PgExecutor<'_>, id: RunId) -> sqlx::Result<bool> {
    let closed = sqlx::query!(
        "update gateway_runs set state = 'closed', ended_at = now()
             where id = $1 and state in ('live', 'spooling')
               and not exists (select from quota_leases where run_id = $1 and state = 'live')",
        id.0,
    )
    .execute(db)
    .await?;
    Ok(closed.rows_affected() > 0)
}

/// `fencing` or `closed` → `settled`. False: the writer still holds leases, or is settled.
pub async fn settle(db: impl PgExecutor<'_>, id: RunId) -> sqlx::Result<bool> {
    let settled = sqlx::query!(
        "update gateway_runs set state = 'settled', ended_at = coalesce(ended_at, now())
             where id = $1 and state in ('fencing', 'closed')
               and not exists (select from quota_leases where run_id = $1 and state = 'live')",
        id.0
    )
    .execute(db)
    .await?;
    Ok(settled.rows_affected() == 1)
}

/// `live` → `fencing`. A writer in another state keeps it.
pub async fn fence_live(db: impl PgExecutor<'_>, id: RunId) -> sqlx::Result<()> {
    sqlx::query!(
        "update gateway_runs set state = 'fencing' where id = $1 and state = 'live'",
        id.0
    )
    .execute(db)
    .await?;
    Ok(())
}

/// `live` → `fencing`, if the heartbeat is still the given one. False: it moved, or the writer is in another state.
///
/// Waits while the writer grants or gives back leases, which takes seconds at most.
pub async fn fence_silent(db: impl PgExecutor<'_>, id: RunId, heartbeat: i64) -> sqlx::Result<bool> {
    let fenced = sqlx::query!(
        "update gateway_runs set state = 'fencing' where id = $1 and state = 'live' and heartbeat = $2",
        id.0,
        heartbeat
    )
    .execute(db)
    .await?;
    Ok(fenced.rows_affected() == 1)
}

/// `live` → `fencing`, for every writer that has corrections to publish and was silent for 60 seconds.
pub async fn fence_silent_with_corrections(db: impl PgExecutor<'_>) -> sqlx::Result<()> {
    let fenced = sqlx::query!(
        "update gateway_runs set state = 'fencing'
         where state = 'live' and heartbeat_at < now() - interval '60 seconds'
           and id in (select run_id from corrections where published_at is null)"
    );
    fenced.execute(db).await?;
    Ok(())
}

/// Any state → `fencing`. The caller holds the lock of [`lock`] and has checked the state.
pub async fn fence(connection: &mut PgConnection, id: RunId) -> sqlx::Result<()> {
    sqlx::query!("update gateway_runs set state = 'fencing' where id = $1", id.0)
        .execute(connection)
        .await?;
    Ok(())
}

/// The writer's name and state. Locks the writer for update.
pub async fn lock(connection: &mut PgConnection, id: RunId) -> sqlx::Result<Option<(String, RunState)>> {
    let row = sqlx::query!("select gateway, state from gateway_runs where id = $1 for update", id.0)
        .fetch_optional(connection)
        .await?;
    row.map(|row| Ok((row.gateway, state(&row.state)?))).transpose()
}

/// The writer's state, for a transaction that grants leases to it. `None`: there is no such writer.
///
/// Locks the writer in share mode: once it is fenced, no grant is made. Sets time limits for the transaction, so that a
/// gateway that is cut off during it blocks others for seconds, not for the hours of a TCP time-out: 1 second for a lock, 3
/// seconds idle.
pub async fn lock_for_grants(connection: &mut PgConnection, id: RunId) -> sqlx::Result<Option<Granting>> {
    let row = sqlx::query!(
        r#"select state,
                  (select count(*) from gateway_runs
                   where state in ('live', 'spooling') and heartbeat_at > now() - interval '15 seconds') as "gateways!",
                  (extract(epoch from clock_timestamp()) * 1000)::bigint as "now_ms!",
                  set_config('idle_in_transaction_session_timeout', '3000', true) as idle_timeout,
                  set_config('lock_timeout', '1000', true) as lock_timeout
           from gateway_runs where id = $1 for share"#,
        id.0
    )
    .fetch_optional(connection)
    .await?;
    let granting = row.map(|row| {
        Ok(Granting {
            state: state(&row.state)?,
            gateways: row.gateways,
            now_ms: row.now_ms,
        })
    });
    granting.transpose()
}

/// Takes no lock, as all functions below.
pub async fn find(db: impl PgExecutor<'_>, id: RunId) -> sqlx::Result<Option<Writer>> {
    let row = sqlx::query!(
        "select state, generation, shards, spooled from gateway_runs where id = $1",
        id.0
    )
    .fetch_optional(db)
    .await?;
    let writer = row.map(|row| {
        Ok(Writer {
            state: state(&row.state)?,
            generation: row.generation,
            shards: row.shards,
            spooled: row.spooled,
        })
    });
    writer.transpose()
}

/// The heartbeats of all live writers.
pub async fn heartbeats(db: impl PgExecutor<'_>) -> sqlx::Result<Vec<(RunId, i64)>> {
    let rows = sqlx::query!("select id, heartbeat from gateway_runs where state = 'live'")
        .fetch_all(db)
        .await?;
    Ok(rows.into_iter().map(|row| (RunId(row.id), row.heartbeat)).collect())
}

/// Writers that ended and are not settled, except `skipped`: first those that are being fenced, then those that closed at
/// least `closed_for` ago.
pub async fn ended(
    db: impl PgExecutor<'_>,
    closed_for: Duration,
    skipped: &[RunId],
    rows_max: i64,
) -> sqlx::Result<Vec<Ended>> {
    let skipped: Vec<_> = skipped.iter().map(|id| id.0).collect();
    let rows = sqlx::query!(
        "select id, state, shards, started_at from gateway_runs
             where (state = 'fencing' or state = 'closed' and ended_at < now() - make_interval(secs => $1))
               and id <> all($2)
             order by state desc, started_at limit $3",
        closed_for.as_secs_f64(),
        &skipped,
        rows_max
    )
    .fetch_all(db)
    .await?;
    let ended = rows.into_iter().map(|row| {
        Ok(Ended {
            id: RunId(row.id),
            state: state(&row.state)?,
            shards: row.shards,
            started_at: row.started_at,
        })
    });
    ended.collect()
}

/// All writers that are not settled.
pub async fn unsettled(db: impl PgExecutor<'_>) -> sqlx::Result<Vec<Unsettled>> {
    let rows = sqlx::query!("select id, state, generation from gateway_runs where state <> 'settled'")
        .fetch_all(db)
        .await?;
    let unsettled = rows.into_iter().map(|row| {
        Ok(Unsettled {
            id: RunId(row.id),
            state: state(&row.state)?,
            generation: u32::try_from(row.generation).unwrap_or(0),
        })
    });
    unsettled.collect()
}

/// The runs of gateways that may admit requests.
pub async fn active_gateways(db: impl PgExecutor<'_>) -> sqlx::Result<Vec<RunId>> {
    let ids = sqlx::query_scalar!(
        "select id from gateway_runs where state in ('live', 'spooling') and gateway <> $1",
        BILLING_WORKER
    )
    .fetch_all(db)
    .await?;
    Ok(ids.into_iter().map(RunId).collect())
}

/// How many writers are in each state, except `settled`.
pub async fn counts(db: impl PgExecutor<'_>) -> sqlx::Result<Vec<StateCount>> {
    let rows = sqlx::query!(
        r#"select state, count(*) as "count!",
                      coalesce(max(extract(epoch from now() - heartbeat_at)) filter (where state = 'fencing'), 0)::bigint
                          as "oldest_s!"
               from gateway_runs where state <> 'settled' group by state"#
    )
    .fetch_all(db)
    .await?;
    let counts = rows.into_iter().map(|row| {
        Ok(StateCount {
            state: state(&row.state)?,
            writers: row.count,
            oldest_s: row.oldest_s,
        })
    });
    counts.collect()
}

/// A page of writers by id, after the writer `after`: those in `in_state` (`None`: all that are not settled), or the one writer
/// `only`.
pub async fn list(
    db: impl PgExecutor<'_>,
    in_state: Option<RunState>,
    only: Option<RunId>,
    after: Option<Uuid>,
    page: i64,
) -> sqlx::Result<Vec<Listed>> {
    let rows = sqlx::query!(
        r#"select r.id, r.gateway, r.state, r.started_at, r.ended_at,
                  extract(epoch from now() - r.started_at)::bigint as "age_s!",
                  extract(epoch from now() - r.heartbeat_at)::bigint as "heartbeat_age_s!",
                  held.leases as "live_leases!", held.units as "held_units!"
           from gateway_runs r
           cross join lateral (
               select count(*) as leases, coalesce(sum(units - returned_units), 0)::bigint as units
               from quota_leases l where l.run_id = r.id and l.state = 'live') as held
           where (r.id = $2 or $2::uuid is null and (r.state = $1 or $1::text is null and r.state <> 'settled'))
             and ($3::uuid is null or r.id > $3)
           order by r.id limit $4"#,
        in_state.map(RunState::as_str),
        only.map(|id| id.0),
        after,
        page
    )
    .fetch_all(db)
    .await?;
    let listed = rows.into_iter().map(|row| {
        Ok(Listed {
            id: row.id,
            gateway: row.gateway,
            state: state(&row.state)?,
            started_at: row.started_at,
            age_s: row.age_s,
            heartbeat_age_s: row.heartbeat_age_s,
            ended_at: row.ended_at,
            live_leases: row.live_leases,
            held_units: row.held_units,
        })
    });
    listed.collect()
}

/// Corrections that are not recorded as published although their writer ended: first those that are not old, each in the
/// order of their creation.
pub async fn open_corrections(db: impl PgExecutor<'_>, rows_max: i64) -> sqlx::Result<Vec<OpenCorrection>> {
    sqlx::query_as!(
        OpenCorrection,
        r#"select c.id, c.account_id, c.run_id as "run_id!", r.shards,
                  c.handed_at < now() - interval '20 days' as "is_old!"
           from corrections c join gateway_runs r on r.id = c.run_id
           where c.published_at is null and r.state not in ('live', 'spooling')
           order by c.handed_at < now() - interval '20 days', c.created_at, c.id limit $1"#,
        rows_max
    )
    .fetch_all(db)
    .await
}
