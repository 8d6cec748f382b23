//! What needs an operator: work with Stripe that fails again and again, or that nobody can do without a decision.

use schema::{AccountId, Catalogue};
use serde::Serialize;
use sqlx::PgPool;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    accepted::{self, DifferenceView},
    list::{self, ReportState, ReportView},
};
use crate::{
    administration::page::{LIMIT_MAX, Page},
    error::Error,
    findings::repository::{self as findings, FindingView},
    subscriptions::unbilled::{self, Unbilled},
    tasks::repository::{self as tasks, TaskView},
    webhook::failing::{self, FailingEvent},
};

/// Maximum number of entries of each kind.
const ENTRIES_MAX: i64 = 1_000;

/// A report is shown after this many failures: a single one is soon over.
const FAILURES_MIN: i32 = 3;

/// A line for which ClickHouse has fewer units than were reported to Stripe.
#[derive(Clone, Debug, Serialize)]
pub struct DriftView {
    pub account_id: AccountId,
    pub usage_type: String,
    #[serde(with = "time::serde::rfc3339")]
    pub period_start: OffsetDateTime,
    pub drift_units: i64,
    #[serde(with = "time::serde::rfc3339::option")]
    pub since: Option<OffsetDateTime>,
}

/// Late usage that is in no period and no invoice item yet.
#[derive(Clone, Debug, Serialize)]
pub struct CarryView {
    pub id: Uuid,
    pub account_id: AccountId,
    pub usage_type: String,
    #[serde(with = "time::serde::rfc3339")]
    pub from_period: OffsetDateTime,
    pub units: i64,
    pub reason: String,
    pub policy: String,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    pub error: Option<String>,
}

/// What needs an operator: the oldest thousand of each kind.
#[derive(Clone, Debug, Serialize)]
pub struct Attention {
    pub parked: Vec<ReportView>,
    /// Open reports that failed several times.
    pub waiting_reports: Vec<ReportView>,
    pub drifts: Vec<DriftView>,
    pub waiting_carries: Vec<CarryView>,
    pub unbilled: Vec<Unbilled>,
    /// Events from Stripe that failed several times, or cannot be read.
    pub failing_events: Vec<FailingEvent>,
    /// Work in Stripe that failed several times, such as restoring a planned change.
    pub tasks: Vec<TaskView>,
    /// States in Stripe that are wrong, with what to do about each.
    pub findings: Vec<FindingView>,
    /// Periods whose invoices are not what is owed.
    pub differences: Vec<DifferenceView>,
}

pub async fn find(db: &PgPool, catalogue: &Catalogue) -> Result<Attention, Error> {
    let parked = Page {
        limit: Some(LIMIT_MAX),
        after: None,
    };
    let waiting_reports = sqlx::query_as!(
        ReportView,
        r#"select id, identifier, account_id as "account_id: Uuid", customer_id, usage_type, period_start, from_units, to_units,
                  state, attempts, created_at, last_attempt_at, next_attempt_at, done_at, error
           from meter_reports where state = 'open' and attempts >= $1 and error is not null order by id limit $2"#,
        FAILURES_MIN,
        ENTRIES_MAX
    )
    .fetch_all(db)
    .await?;
    let drifts = sqlx::query_as!(
        DriftView,
        r#"select account_id as "account_id: Uuid", usage_type, period_start, drift_units, drift_since as since
           from meter_ledger where drift_units <> 0 order by drift_since limit $1"#,
        ENTRIES_MAX
    )
    .fetch_all(db)
    .await?;
    let waiting_carries = sqlx::query_as!(
        CarryView,
        r#"select id, account_id as "account_id: Uuid", usage_type, from_period, units, reason, policy, created_at, error
           from meter_carries where settled_at is null order by id limit $1"#,
        ENTRIES_MAX
    )
    .fetch_all(db)
    .await?;
    Ok(Attention {
        parked: list::list(db, Some(ReportState::Parked), parked).await?.items,
        waiting_reports,
        drifts,
        waiting_carries,
        unbilled: unbilled::list(db, catalogue, Some(ENTRIES_MAX)).await?,
        failing_events: failing::list(db, ENTRIES_MAX).await?,
        tasks: tasks::failing(db, ENTRIES_MAX).await?,
        findings: findings::list(db, ENTRIES_MAX).await?,
        differences: accepted::open(db, ENTRIES_MAX).await?,
    })
}
