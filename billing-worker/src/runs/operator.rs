//! Runs as an operator sees them, and giving up one whose spool is lost.

use schema::RunId;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::{PgExecutor, PgPool};
use time::OffsetDateTime;
use tracing::warn;
use uuid::Uuid;

use super::state::RunState;
use crate::{
    administration::{
        Administration, audit,
        page::{Listed, Page},
    },
    error::Error,
};

/// A run, as it is listed.
#[derive(Clone, Debug, Serialize)]
pub struct RunView {
    pub id: Uuid,
    /// The writer's name: a gateway's, or billing-worker.
    pub gateway: String,
    pub state: String,
    #[serde(with = "time::serde::rfc3339")]
    pub started_at: OffsetDateTime,
    /// By the database's clock, as all ages here.
    pub age_s: i64,
    /// Since its heartbeat last moved.
    pub heartbeat_age_s: i64,
    #[serde(with = "time::serde::rfc3339::option")]
    pub ended_at: Option<OffsetDateTime>,
    pub live_leases: i64,
    /// Units of its live leases that it has not given back. How many of them are spent is known when they are settled.
    pub held_units: i64,
}

/// What is asked of a run that spools.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GiveUp {
    /// Whoever asks knows that what it acknowledged and did not publish is lost.
    #[serde(default)]
    pub spool_is_lost: bool,
}

/// The oldest first; without a state all that are not settled.
pub async fn list(db: &PgPool, state: Option<RunState>, page: Page) -> Result<Listed<RunView>, Error> {
    let runs = read(db, state, None, page.after, page.rows()?).await?;
    page.cut(runs, |run: &RunView| run.id)
}

/// Of these states, or this one run.
async fn read(
    db: impl PgExecutor<'_>,
    state: Option<RunState>,
    only: Option<RunId>,
    after: Option<Uuid>,
    rows: i64,
) -> Result<Vec<RunView>, Error> {
    let runs = sqlx::query_as!(
        RunView,
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
        state.map(RunState::as_str),
        only.map(|run| run.0),
        after,
        rows
    )
    .fetch_all(db)
    .await?;
    Ok(runs)
}

/// Ends a run that spools: what it acknowledged and did not publish is given up with it.
pub async fn give_up(admin: &Administration, run: RunId, asked: GiveUp) -> Result<RunView, Error> {
    if !asked.spool_is_lost {
        return Err(Error::BadValue {
            field: "spool_is_lost",
            rule: "must be true: what the run acknowledged and has not published yet is lost for good, so start its gateway \
                   again with the same spool if you can, and it publishes all of it"
                .to_owned(),
        });
    }
    let mut tx = admin.db.begin().await?;
    let row = sqlx::query!(
        "select gateway, state from gateway_runs where id = $1 for update",
        run.0
    )
    .fetch_optional(&mut *tx)
    .await?;
    let row = row.ok_or_else(|| Error::UnknownRun(run.to_string()))?;
    if row.state != RunState::Spooling.as_str() {
        return Err(Error::RunNotSpooling {
            run: run.to_string(),
            state: row.state,
        });
    }
    sqlx::query!("update gateway_runs set state = 'fencing' where id = $1", run.0)
        .execute(&mut *tx)
        .await?;
    let entry = audit::Entry {
        action: "run.give_up",
        account: None,
        subject: run.to_string(),
        details: json!({ "gateway": row.gateway, "state": RunState::Fencing }),
        actor: admin.actor(),
    };
    audit::record(&mut tx, entry).await?;
    let given_up = read(&mut *tx, None, Some(run), None, 1).await?.pop();
    tx.commit().await?;
    warn!(run.id = %run, gateway = row.gateway, by = %admin.by, "gave up a run with its spool: its leases are settled");
    given_up.ok_or_else(|| Error::UnknownRun(run.to_string()))
}
