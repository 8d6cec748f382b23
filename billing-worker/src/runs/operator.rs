//! Runs for operators: list them, and give up a run whose spool is lost.

use protocol::run::Transition;
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

/// A run in the list.
#[derive(Clone, Debug, Serialize)]
pub struct RunView {
    pub id: Uuid,
    /// The name of the writer: of a gateway, or `billing-worker`.
    pub gateway: String,
    pub state: String,
    #[serde(with = "time::serde::rfc3339")]
    pub started_at: OffsetDateTime,
    /// By the clock of the database, like all ages here.
    pub age_s: i64,
    /// Since its heartbeat last moved.
    pub heartbeat_age_s: i64,
    #[serde(with = "time::serde::rfc3339::option")]
    pub ended_at: Option<OffsetDateTime>,
    pub live_leases: i64,
    /// Units of its live leases that it has not returned. Settling shows how many of them are spent.
    pub held_units: i64,
}

/// A request to give up a spooling run.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GiveUp {
    /// Confirms that requests which the run acknowledged but did not publish are lost.
    #[serde(default)]
    pub spool_is_lost: bool,
}

/// Lists runs, oldest first. Without a state: all unsettled runs.
pub async fn list(db: &PgPool, state: Option<RunState>, page: Page) -> Result<Listed<RunView>, Error> {
    let runs = read(db, state, None, page.after, page.rows()?).await?;
    page.cut(runs, |run: &RunView| run.id)
}

/// Reads runs in a state, or one run.
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

/// Ends a spooling run. Requests that it acknowledged but did not publish are lost.
pub async fn give_up(admin: &Administration, run: RunId, asked: GiveUp) -> Result<RunView, Error> {
    if !asked.spool_is_lost {
        return Err(Error::BadValue {
            field: "spool_is_lost",
            rule: "must be true: requests that the run acknowledged but has not published are then lost for good. If you can, \
                   start its gateway again with the same spool instead: it publishes all of them"
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
    if RunState::parse(&row.state)
        .and_then(|state| state.after(Transition::GiveUp))
        .is_none()
    {
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
    warn!(run.id = %run, gateway = row.gateway, by = %admin.by, "gave up a run and its spool: its leases will be settled");
    given_up.ok_or_else(|| Error::UnknownRun(run.to_string()))
}
