//! The rows of tasks. A task is written and completed while its account's lease is held.

use schema::AccountId;
use serde::Serialize;
use serde_json::Value;
use sqlx::{PgExecutor, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::error::Error;

/// The change that armed a task is over by then, or its worker is dead: its lease has expired, too.
const ARMED_S: i32 = 60;
/// A task that waits for something else, such as a payment, is looked at again after this time. Events wake it earlier.
const LATER_S: i32 = 3_600;
/// A task that fails for this long gets the state `attention`.
const ATTENTION_AFTER_S: i32 = 24 * 3_600;
/// A task is shown to operators after this many failures: a single one is soon over.
const FAILURES_MIN: i32 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskKind {
    /// [`crate::subscriptions::restore::Restore`]
    RestorePlan,
    /// [`crate::subscriptions::completion::Completion`]
    CompleteUpgrade,
    /// [`crate::subscriptions::leftover::Leftover`]
    RemoveItems,
    /// [`crate::subscriptions::migrate`]
    Migrate,
}

/// A task that is not done.
#[derive(Clone, Debug)]
pub struct OpenTask {
    pub id: Uuid,
    pub kind: String,
    pub args: Value,
    /// Failed ones.
    pub attempts: i32,
}

/// A task that an operator should know about.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TaskView {
    pub id: Uuid,
    pub account_id: AccountId,
    pub kind: String,
    /// `due`: it is repeated; `attention`: it has failed for a day, and is repeated every hour.
    pub state: String,
    pub attempts: i32,
    pub args: Value,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub next_attempt_at: OffsetDateTime,
    pub error: Option<String>,
}

impl TaskKind {
    const ALL: [Self; 4] = [
        Self::RestorePlan,
        Self::CompleteUpgrade,
        Self::RemoveItems,
        Self::Migrate,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::RestorePlan => "restore_plan",
            Self::CompleteUpgrade => "complete_upgrade",
            Self::RemoveItems => "remove_items",
            Self::Migrate => "migrate",
        }
    }

    pub fn from_stored(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// Stores a task before the change that it protects. An unfinished task of the account is replaced: the caller has read it, and
/// includes what it must still do.
pub async fn arm(db: impl PgExecutor<'_>, account: AccountId, kind: TaskKind, args: &Value) -> Result<Uuid, Error> {
    let id = sqlx::query_scalar!(
        "insert into stripe_tasks as t (id, account_id, kind, args, next_attempt_at)
         values ($1, $2, $3, $4, now() + make_interval(secs => $5))
         on conflict (account_id, kind) where state <> 'done' do update set args = excluded.args, state = 'armed', attempts = 0,
             error = null, next_attempt_at = excluded.next_attempt_at
         returning id",
        Uuid::now_v7(),
        account.0,
        kind.as_str(),
        args,
        f64::from(ARMED_S)
    )
    .fetch_one(db)
    .await?;
    Ok(id)
}

/// Stores a task for later, if the account has none of this kind.
pub async fn plan(db: impl PgExecutor<'_>, account: AccountId, kind: TaskKind, args: &Value) -> Result<(), Error> {
    sqlx::query!(
        "insert into stripe_tasks (id, account_id, kind, args, next_attempt_at)
         values ($1, $2, $3, $4, now() + make_interval(secs => $5))
         on conflict (account_id, kind) where state <> 'done' do nothing",
        Uuid::now_v7(),
        account.0,
        kind.as_str(),
        args,
        f64::from(LATER_S)
    )
    .execute(db)
    .await?;
    Ok(())
}

/// The account's task is due now.
pub async fn wake(db: impl PgExecutor<'_>, account: AccountId, kind: TaskKind) -> Result<(), Error> {
    sqlx::query!(
        "update stripe_tasks set next_attempt_at = least(next_attempt_at, now())
         where account_id = $1 and kind = $2 and state <> 'done'",
        account.0,
        kind.as_str()
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Nothing can be done yet: the task is looked at again later.
pub async fn wait(db: impl PgExecutor<'_>, id: Uuid) -> Result<(), Error> {
    sqlx::query!(
        "update stripe_tasks set state = 'armed', error = null, next_attempt_at = now() + make_interval(secs => $2)
         where id = $1 and state <> 'done'",
        id,
        f64::from(LATER_S)
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Nothing is left to do.
pub async fn done(db: impl PgExecutor<'_>, id: Uuid) -> Result<(), Error> {
    sqlx::query!(
        "update stripe_tasks set state = 'done', done_at = now(), error = null where id = $1 and state <> 'done'",
        id
    )
    .execute(db)
    .await?;
    Ok(())
}

/// An attempt failed, after so many others; the next one follows after a while. Returns the state of the task.
pub async fn failed(db: impl PgExecutor<'_>, id: Uuid, why: &str, attempts: i32) -> Result<Option<String>, Error> {
    let state = sqlx::query_scalar!(
        "update stripe_tasks
         set state = case when created_at <= now() - make_interval(secs => $4) then 'attention' else 'due' end,
             attempts = attempts + 1, error = $2, next_attempt_at = now() + make_interval(secs => $3::bigint)
         where id = $1 and state <> 'done' returning state",
        id,
        why,
        delay_s(attempts),
        f64::from(ATTENTION_AFTER_S)
    )
    .fetch_optional(db)
    .await?;
    Ok(state)
}

/// The account's unfinished task.
pub async fn open(db: impl PgExecutor<'_>, account: AccountId, kind: TaskKind) -> Result<Option<OpenTask>, Error> {
    let open = sqlx::query_as!(
        OpenTask,
        "select id, kind, args, attempts from stripe_tasks where account_id = $1 and kind = $2 and state <> 'done'",
        account.0,
        kind.as_str()
    )
    .fetch_optional(db)
    .await?;
    Ok(open)
}

/// Tasks that are due and their accounts, the longest due first.
pub async fn due(db: &PgPool, most: i64) -> Result<Vec<(Uuid, AccountId)>, Error> {
    let due = sqlx::query!(
        "select id, account_id from stripe_tasks where state <> 'done' and next_attempt_at <= now()
         order by next_attempt_at limit $1",
        most
    )
    .fetch_all(db)
    .await?;
    Ok(due.into_iter().map(|row| (row.id, AccountId(row.account_id))).collect())
}

/// The task, if it is still due: while the caller waited for the account, another worker or a change may have completed it.
pub async fn still_due(db: impl PgExecutor<'_>, id: Uuid) -> Result<Option<OpenTask>, Error> {
    let task = sqlx::query_as!(
        OpenTask,
        "select id, kind, args, attempts from stripe_tasks where id = $1 and state <> 'done' and next_attempt_at <= now()",
        id
    )
    .fetch_optional(db)
    .await?;
    Ok(task)
}

/// For an operator: tasks that failed several times, the oldest first.
pub async fn failing(db: &PgPool, max: i64) -> Result<Vec<TaskView>, Error> {
    let failing = sqlx::query_as!(
        TaskView,
        r#"select id, account_id as "account_id: Uuid", kind, state, attempts, args, created_at, next_attempt_at, error
           from stripe_tasks where state = 'attention' or (state = 'due' and attempts >= $1) order by created_at limit $2"#,
        FAILURES_MIN,
        max
    )
    .fetch_all(db)
    .await?;
    Ok(failing)
}

/// How many open tasks are in each state.
pub async fn counts(db: &PgPool) -> Result<Vec<(String, i64)>, Error> {
    let counts =
        sqlx::query!(r#"select state, count(*) as "count!" from stripe_tasks where state <> 'done' group by state"#)
            .fetch_all(db)
            .await?;
    Ok(counts.into_iter().map(|row| (row.state, row.count)).collect())
}

/// Deletes tasks that were done long ago. Returns their number.
pub async fn forget(db: &PgPool) -> Result<u64, Error> {
    const KEPT_DAYS: i32 = 40;
    let deleted = sqlx::query!(
        "delete from stripe_tasks where state = 'done' and done_at < now() - make_interval(days => $1)",
        KEPT_DAYS
    )
    .execute(db)
    .await?;
    Ok(deleted.rows_affected())
}

/// The pause before the next attempt, after so many that failed before this one.
fn delay_s(failed: i32) -> i64 {
    const FIRST_S: i64 = 2;
    const MAX_S: i64 = 3_600;
    let doubled = u32::try_from(failed).unwrap_or(0).min(20);
    (FIRST_S << doubled).min(MAX_S)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_an_hour() {
        let delays = [0, 1, 2, 10, 11, 12, i32::MAX].map(delay_s);
        assert_eq!(delays, [2, 4, 8, 2_048, 3_600, 3_600, 3_600]);
    }
}
