//! The rows of notices: each is written once, claimed by one worker at a time, and settled by the worker that holds the claim.
//!
//! A claim covers the endpoint, so deliveries to one endpoint never overlap, with any number of workers. When a worker dies, its
//! claim expires and the notice is sent again under the same id, so the receiver can drop the duplicate. The columns of a claim
//! are `lease_id` and `leased_until`.

use anyhow::{Context, Result};
use async_nats::{HeaderMap, header::NATS_MESSAGE_ID};
use schema::{AccountId, names, period::instant};
use sqlx::PgPool;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    message::{Kind, NoticeId, Reached},
    schedule::Next,
    signature::Secret,
};

/// Longer than an attempt and storing its result.
const LEASE_S: f64 = 60.0;
/// How long other workers skip the notices that a worker is publishing. Longer than it waits for NATS (5 s).
const PUBLISH_CLAIM_S: f64 = 30.0;
/// Messages published in one round.
const PUBLISHED_AT_ONCE: i64 = 100;

/// A claimed notice. No `Debug`: it contains secrets.
pub struct Claimed {
    pub id: NoticeId,
    pub account: AccountId,
    pub body: String,
    /// Attempts before this one.
    pub attempts: i32,
    pub url: String,
    /// Start of the current series of failures of the endpoint, Unix seconds.
    pub failing_since: Option<i64>,
    /// Newest first.
    pub secrets: Vec<Secret>,
    lease: Uuid,
}

/// The result of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settlement {
    Delivered,
    Failed { error: String, next: Next },
    Gone,
}

/// Inserts a notice for each reached threshold that has none yet; returns the new ones.
pub async fn add(db: &PgPool, reached: Vec<Reached>, now: i64) -> Result<Vec<Reached>> {
    if reached.is_empty() {
        return Ok(reached);
    }
    let (mut accounts, mut types, mut starts, mut percents) = (vec![], vec![], vec![], vec![]);
    for one in &reached {
        accounts.push(one.account.0);
        types.push(one.usage_type.name().to_owned());
        starts.push(instant(one.period.start));
        percents.push(i32::from(one.threshold_percent));
    }
    // First look without a lock, because every comparison also finds thresholds that were reached long ago.
    let unknown = sqlx::query_scalar!(
        r#"select r.number as "number!"
           from unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::int[]) with ordinality
                as r (account_id, usage_type, period_start, threshold_percent, number)
           where not exists (
               select from notices n
               where (n.account_id, n.usage_type, n.period_start, n.threshold_percent)
                   = (r.account_id, r.usage_type, r.period_start, r.threshold_percent))
           order by r.number"#,
        &accounts,
        &types,
        &starts,
        &percents
    )
    .fetch_all(db)
    .await
    .context("looking for notices")?;
    let mut new = Vec::new();
    for number in unknown {
        // Ordinality counts from 1.
        let one = reached[usize::try_from(number)? - 1];
        if insert(db, &one, now).await.context("storing a notice")? {
            new.push(one);
        }
    }
    Ok(new)
}

async fn insert(db: &PgPool, reached: &Reached, now: i64) -> Result<bool> {
    let mut tx = db.begin().await?;
    let state = first_state(&mut tx, reached.account).await?;
    let inserted = sqlx::query!(
        "insert into notices (id, account_id, kind, usage_type, period_start, threshold_percent, body, state, last_error)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9) on conflict on constraint notices_once do nothing",
        NoticeId::new().0,
        reached.account.0,
        Kind::ThresholdReached.as_str(),
        reached.usage_type.name(),
        instant(reached.period.start),
        i32::from(reached.threshold_percent),
        reached.message(now),
        state.0,
        state.1
    )
    .execute(&mut *tx)
    .await?
    .rows_affected();
    tx.commit().await?;
    Ok(inserted > 0)
}

/// Returns the state of a new notice, and the reason if it cannot be sent. Locks the endpoint until the commit: otherwise
/// disabling the endpoint at the same moment would leave a notice pending forever.
async fn first_state(
    tx: &mut sqlx::Transaction<'_, sqlx::Postgres>,
    account: AccountId,
) -> sqlx::Result<(&'static str, Option<&'static str>)> {
    let state = sqlx::query_scalar!(
        "select state from notice_endpoints where account_id = $1 for share",
        account.0
    )
    .fetch_optional(&mut **tx)
    .await?;
    Ok(match state.as_deref() {
        Some("active") => ("pending", None),
        Some(_) => ("unaddressed", Some("the endpoint was disabled")),
        None => ("unaddressed", Some("the account had no endpoint")),
    })
}

/// Claims due notices, at most one per endpoint.
pub async fn claim(db: &PgPool, most: usize) -> sqlx::Result<Vec<Claimed>> {
    let lease = Uuid::new_v4();
    let rows = sqlx::query!(
        r#"with due as (
               select n.id, n.account_id, n.next_attempt_at
               from notices n join notice_endpoints e on e.account_id = n.account_id
               where n.state = 'pending' and n.next_attempt_at <= now() and e.state = 'active'
                 and (e.leased_until is null or e.leased_until <= now())
               order by n.next_attempt_at, n.id limit $2
               for update of n, e skip locked
           ), next as (
               select distinct on (account_id) id, account_id from due order by account_id, next_attempt_at, id
           ), leased as (
               update notice_endpoints e set lease_id = $1, leased_until = now() + $3 * interval '1 second'
               from next where e.account_id = next.account_id
               returning e.account_id, e.url, e.failing_since
           )
           select n.id, n.account_id, n.body, n.attempts, leased.url as "url!", leased.failing_since,
                  array(select s.secret from notice_secrets s
                        where s.account_id = n.account_id and (s.expires_at is null or s.expires_at > now())
                        order by s.id desc) as "secrets!"
           from leased join next on next.account_id = leased.account_id join notices n on n.id = next.id"#,
        lease,
        i64::try_from(most).unwrap_or(i64::MAX),
        LEASE_S
    )
    .fetch_all(db)
    .await?;
    let claimed = rows.into_iter().map(|row| Claimed {
        id: NoticeId(row.id),
        account: AccountId(row.account_id),
        body: row.body,
        attempts: row.attempts,
        url: row.url,
        failing_since: row.failing_since.map(OffsetDateTime::unix_timestamp),
        secrets: row.secrets.into_iter().map(Secret::from_stored).collect(),
        lease,
    });
    Ok(claimed.collect())
}

/// Stores the result of an attempt and ends its claim. Returns `false` if the claim was lost; then nothing changes.
pub async fn settle(db: &PgPool, claimed: &Claimed, settlement: &Settlement) -> sqlx::Result<bool> {
    let disabled = match settlement {
        Settlement::Gone => Some("it answered 410 Gone"),
        Settlement::Failed {
            next: Next::Disable, ..
        } => Some("every attempt of the last 5 days failed"),
        Settlement::Delivered | Settlement::Failed { .. } => None,
    };
    let delivered = *settlement == Settlement::Delivered;
    let gave_up = matches!(settlement, Settlement::Failed { next: Next::GiveUp, .. });
    let mut tx = db.begin().await?;
    let held = sqlx::query!(
        "update notice_endpoints
         set lease_id = null, leased_until = null,
             -- The start of a series of failures. The series ends when no notice is pending any more.
             failing_since = case
                 when $3 or $5 and not exists (select from notices n
                     where n.account_id = $1 and n.state = 'pending' and n.id <> $6) then null
                 else coalesce(failing_since, now()) end,
             state = case when $4::text is null then state else 'disabled' end,
             disabled_reason = coalesce($4, disabled_reason),
             updated_at = case when $4 is null then updated_at else now() end
         where account_id = $1 and lease_id = $2",
        claimed.account.0,
        claimed.lease,
        delivered,
        disabled,
        gave_up,
        claimed.id.0
    )
    .execute(&mut *tx)
    .await?
    .rows_affected();
    if held == 0 {
        return Ok(false);
    }
    let (state, error, after_s) = match settlement {
        Settlement::Delivered => ("delivered", None, 0),
        Settlement::Gone => ("failed", Some("answered 410 Gone: the endpoint is disabled"), 0),
        Settlement::Failed { error, next } => match next {
            Next::Again { after_s } => ("pending", Some(error.as_str()), *after_s),
            Next::GiveUp | Next::Disable => ("failed", Some(error.as_str()), 0),
        },
    };
    sqlx::query!(
        "update notices
         set state = $2, attempts = attempts + 1, last_error = $3, next_attempt_at = now() + $4 * interval '1 second',
             delivered_at = case when $2 = 'delivered' then now() else delivered_at end
         where id = $1",
        claimed.id.0,
        state,
        error,
        after_s as f64
    )
    .execute(&mut *tx)
    .await?;
    if disabled.is_some() {
        sqlx::query!(
            "update notices set state = 'failed', last_error = 'the endpoint was disabled'
             where account_id = $1 and state = 'pending'",
            claimed.account.0
        )
        .execute(&mut *tx)
        .await?;
    }
    tx.commit().await?;
    Ok(true)
}

/// Publishes unpublished notices and returns their number. Each is published at least once: if a worker dies after its claim,
/// another worker publishes the notices again. No transaction is open while NATS is asked.
pub async fn publish(db: &PgPool, nats: &async_nats::Client) -> Result<usize> {
    let rows = sqlx::query!(
        "update notices n set publish_claimed_until = now() + make_interval(secs => $2)
         from (select id from notices
               where published_at is null and (publish_claimed_until is null or publish_claimed_until <= now())
               order by id limit $1 for update skip locked) as next
         where n.id = next.id returning n.id, n.account_id, n.body",
        PUBLISHED_AT_ONCE,
        PUBLISH_CLAIM_S
    )
    .fetch_all(db)
    .await?;
    if rows.is_empty() {
        return Ok(0);
    }
    let ids: Vec<_> = rows.iter().map(|row| row.id).collect();
    let messages = rows.into_iter().map(|row| (row.id, row.account_id, row.body));
    let sent = send(nats, messages).await;
    sqlx::query!(
        "update notices set publish_claimed_until = null, published_at = case when $2 then now() end where id = any($1)",
        &ids,
        sent.is_ok()
    )
    .execute(db)
    .await?;
    sent.map(|()| ids.len())
}

async fn send(nats: &async_nats::Client, messages: impl Iterator<Item = (Uuid, Uuid, String)>) -> Result<()> {
    for (id, account, body) in messages {
        let mut headers = HeaderMap::new();
        headers.insert(NATS_MESSAGE_ID, id.to_string());
        let subject = names::notices(AccountId(account));
        nats.publish_with_headers(subject, headers, body.into()).await?;
    }
    Ok(nats.flush().await?)
}

/// Counts the pending notices.
pub async fn pending(db: &PgPool) -> sqlx::Result<i64> {
    sqlx::query_scalar!(r#"select count(*) as "count!" from notices where state = 'pending'"#)
        .fetch_one(db)
        .await
}
