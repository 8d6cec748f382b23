//! Runs for operators: list them, and give up a run whose spool is lost.

use protocol::run::{RunState, Transition};
use quota_store::writers;
use schema::RunId;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::{PgExecutor, PgPool};
use time::OffsetDateTime;
use tracing::warn;
use uuid::Uuid;

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
    pub kind: WriterKind,
    /// The name of the writer: of a gateway (`GATEWAY_NAME`), or `billing-worker`.
    pub gateway: String,
    pub state: RunState,
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

/// Who writes the events of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WriterKind {
    Gateway,
    /// It publishes corrections.
    BillingWorker,
}

impl WriterKind {
    fn of(name: &str) -> Self {
        match name {
            writers::BILLING_WORKER => Self::BillingWorker,
            _ => Self::Gateway,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::BillingWorker => "billing worker",
        }
    }
}

impl From<writers::Listed> for RunView {
    fn from(writer: writers::Listed) -> Self {
        Self {
            id: writer.id,
            kind: WriterKind::of(&writer.gateway),
            gateway: writer.gateway,
            state: writer.state,
            started_at: writer.started_at,
            age_s: writer.age_s,
            heartbeat_age_s: writer.heartbeat_age_s,
            ended_at: writer.ended_at,
            live_leases: writer.live_leases,
            held_units: writer.held_units,
        }
    }
}

/// A request to give up a spooling run.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GiveUp {
    /// Confirms that requests which the run acknowledged but did not publish are lost.
    #[serde(default)]
    pub spool_is_lost: bool,
}

/// What giving up a run costs, and what to try first.
pub const SPOOL_IS_LOST: &str = "requests that the run acknowledged but has not published are then lost for good. If you can, \
                                 start its gateway again with the same spool instead: it publishes all of them";

/// Lists runs, oldest first. Without a state: all unsettled runs.
pub async fn list(db: &PgPool, state: Option<RunState>, page: Page) -> Result<Listed<RunView>, Error> {
    let runs = read(db, state, None, page.after, page.rows()).await?;
    Ok(page.cut(runs, |run: &RunView| run.id))
}

/// Reads runs in a state, or one run.
async fn read(
    db: impl PgExecutor<'_>,
    state: Option<RunState>,
    only: Option<RunId>,
    after: Option<Uuid>,
    rows: i64,
) -> Result<Vec<RunView>, Error> {
    let runs = writers::list(db, state, only, after, rows).await?;
    Ok(runs.into_iter().map(RunView::from).collect())
}

/// Ends a spooling run. Requests that it acknowledged but did not publish are lost.
pub async fn give_up(admin: &Administration, run: RunId, asked: GiveUp) -> Result<RunView, Error> {
    if !asked.spool_is_lost {
        return Err(Error::BadValue {
            field: "spool_is_lost",
            rule: format!("must be true, got false: {SPOOL_IS_LOST}"),
        });
    }
    let mut tx = admin.db.begin().await?;
    let row = writers::lock(&mut tx, run).await?;
    let (gateway, state) = row.ok_or_else(|| Error::UnknownRun(run.to_string()))?;
    if state.after(Transition::GiveUp).is_none() {
        return Err(Error::RunNotSpooling {
            run: run.to_string(),
            state: state.as_str().to_owned(),
        });
    }
    writers::fence(&mut tx, run).await?;
    let entry = audit::Entry {
        action: "run.give_up",
        account: None,
        subject: run.to_string(),
        details: json!({ "gateway": gateway, "state": RunState::Fencing }),
        actor: admin.actor(),
    };
    audit::record(&mut tx, entry).await?;
    let given_up = read(&mut *tx, None, Some(run), None, 1).await?.pop();
    tx.commit().await?;
    warn!(run.id = %run, gateway, by = %admin.by, "gave up a run and its spool: its leases will be settled");
    given_up.ok_or_else(|| Error::UnknownRun(run.to_string()))
}
