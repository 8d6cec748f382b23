//! The statements on the table `corrections`, and the units that they return to `quota_pool`.

use std::collections::HashMap;

use quota_store::pools::{self, PoolKey, Returned};
use schema::{AccountId, EventId, KeyId, LeaseId, RunId, UsageEvent, period::instant};
use sqlx::{PgExecutor, PgPool, Postgres, Transaction};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    correction::{Correction, event_of},
    originals::Facts,
    originals::Original,
};
use crate::error::Error;

/// Rows that a session takes at a time.
const HAND_MAX: i64 = 500;

/// A row to insert.
#[derive(Clone, Debug)]
pub struct NewRow {
    pub id: EventId,
    pub event: EventId,
    pub delta_units: i64,
    pub units_after: i64,
    pub original: Original,
}

/// A row that was handed to a run, with the event to publish.
#[derive(Clone, Debug)]
pub struct Handed {
    pub account: AccountId,
    pub event: UsageEvent,
}

/// Returns the units by which the events were lowered so far. The caller holds the account's lock.
pub async fn corrected(
    tx: &mut Transaction<'_, Postgres>,
    account: AccountId,
    events: &[EventId],
) -> Result<HashMap<EventId, i64>, Error> {
    let rows = sqlx::query!(
        r#"select event_id, (-sum(delta_units))::bigint as "units!" from corrections
           where account_id = $1 and event_id = any($2) group by event_id"#,
        account.0,
        &uuids(events)
    )
    .fetch_all(&mut **tx)
    .await?;
    Ok(rows.into_iter().map(|row| (EventId(row.event_id), row.units)).collect())
}

pub async fn insert(
    tx: &mut Transaction<'_, Postgres>,
    account: AccountId,
    correction: Uuid,
    rows: &[NewRow],
    reason: &str,
    by: &str,
) -> Result<(), Error> {
    let column = |of: fn(&NewRow) -> i64| rows.iter().map(of).collect::<Vec<_>>();
    let originals: Vec<_> = rows.iter().map(|row| facts_text(&row.original.facts)).collect();
    sqlx::query!(
        "insert into corrections (id, correction_id, account_id, event_id, usage_type, period_start, cost_units, delta_units,
                                  units_after, leased, original, reason, requested_by)
         select n.id, $1, $2, n.event_id, n.usage_type, n.period_start, n.cost_units, n.delta_units, n.units_after, n.leased,
                n.original::json, $3, $4
         from unnest($5::uuid[], $6::uuid[], $7::text[], $8::timestamptz[], $9::bigint[], $10::bigint[], $11::bigint[],
                     $12::boolean[], $13::text[])
              as n (id, event_id, usage_type, period_start, cost_units, delta_units, units_after, leased, original)",
        correction,
        account.0,
        reason,
        by,
        &rows.iter().map(|row| row.id.0).collect::<Vec<_>>(),
        &rows.iter().map(|row| row.event.0).collect::<Vec<_>>(),
        &rows.iter().map(|row| row.original.usage_type.clone()).collect::<Vec<_>>(),
        &rows.iter().map(|row| instant(row.original.period_start)).collect::<Vec<_>>(),
        &column(|row| row.original.cost_units),
        &column(|row| row.delta_units),
        &column(|row| row.units_after),
        &rows.iter().map(|row| !row.original.lease_id.is_nil()).collect::<Vec<_>>(),
        &originals
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Returns the rows of one request; none if there was no such request.
pub async fn of_request(
    db: impl PgExecutor<'_>,
    account: AccountId,
    correction: Uuid,
) -> Result<Vec<Correction>, Error> {
    let rows = sqlx::query_as!(
        Row,
        "select id, correction_id, account_id, event_id, usage_type, period_start, cost_units, delta_units, units_after,
                reason, requested_by, created_at, published_at, pool_returned_units
         from corrections where account_id = $1 and correction_id = $2 order by event_id",
        account.0,
        correction
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(Row::into_correction).collect())
}

pub async fn list(
    db: &PgPool,
    account: Option<AccountId>,
    after: Option<Uuid>,
    limit: i64,
) -> Result<Vec<Correction>, Error> {
    // Ids are hashes: they only order rows of one transaction.
    let rows = sqlx::query_as!(
        Row,
        "select id, correction_id, account_id, event_id, usage_type, period_start, cost_units, delta_units, units_after,
                reason, requested_by, created_at, published_at, pool_returned_units
         from corrections
         where ($1::uuid is null or account_id = $1)
           and ($2::uuid is null or (created_at, id) > (select created_at, id from corrections where id = $2))
         order by created_at, id limit $3",
        account.map(|account| account.0),
        after,
        limit
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(Row::into_correction).collect())
}

/// Counts the correcting events that are not yet confirmed in the stream.
pub async fn waiting(db: &PgPool) -> Result<i64, Error> {
    let waiting = sqlx::query_scalar!(r#"select count(*) as "waiting!" from corrections where published_at is null"#);
    Ok(waiting.fetch_one(db).await?)
}

/// Returns whether any row waits for a run.
pub async fn has_unhanded(db: &PgPool) -> Result<bool, Error> {
    let unhanded = sqlx::query_scalar!(
        r#"select exists (select from corrections where published_at is null and run_id is null) as "unhanded!""#
    );
    Ok(unhanded.fetch_one(db).await?)
}

/// Hands waiting rows to a run, oldest first. It commits, so that no other run publishes them. Returns no rows if none wait.
pub async fn hand(db: &PgPool, run: RunId) -> Result<Vec<Handed>, Error> {
    let rows = sqlx::query!(
        r#"with next as (
               select id from corrections where published_at is null and run_id is null
               order by created_at, id limit $2 for update skip locked)
           update corrections c set run_id = $1, handed_at = now() from next where c.id = next.id
           returning c.correction_id, c.account_id, c.event_id, c.usage_type, c.period_start, c.delta_units,
                     c.original::text as "original!""#,
        run.0,
        HAND_MAX
    )
    .fetch_all(db)
    .await?;
    let handed = rows.into_iter().map(|row| {
        let facts: Facts = serde_json::from_str(&row.original).map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
        let (account, corrects) = (AccountId(row.account_id), EventId(row.event_id));
        let (idempotency_key, event_id) = event_of(account, row.correction_id, corrects);
        Ok(Handed {
            account,
            event: UsageEvent {
                event_id,
                account_id: account,
                // No API key: no request recorded this event.
                key_id: KeyId::NIL,
                subscription_id: facts.subscription_id,
                period_start: row.period_start.unix_timestamp(),
                usage_type: row.usage_type,
                cost_units: row.delta_units,
                endpoint: facts.endpoint,
                method: facts.method,
                status: facts.status,
                request_id: facts.request_id,
                ip_address: facts.ip_address,
                user_agent: facts.user_agent,
                time_ms: facts.time_ms,
                // No lease: a correction returns units.
                lease_id: LeaseId::NIL,
                idempotency_key,
                corrects,
            },
        })
    });
    handed.collect()
}

/// Lets rows wait again. The run certainly did not store them and never will.
pub async fn not_stored(db: &PgPool, run: RunId, events: &[EventId]) -> Result<(), Error> {
    if events.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "update corrections set run_id = null, handed_at = null
         where id = any($1) and run_id = $2 and published_at is null",
        &uuids(events),
        run.0
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Marks correcting events as published, and returns their units to the original pools. Both happen in one transaction, once.
/// Returns the accounts that got units back.
pub async fn stored(db: &PgPool, events: &[EventId]) -> Result<Vec<AccountId>, Error> {
    if events.is_empty() {
        return Ok(Vec::new());
    }
    let mut tx = db.begin().await?;
    let rows = sqlx::query!(
        "select id, account_id, usage_type, period_start, delta_units, leased from corrections
         where id = any($1) and published_at is null order by id for update",
        &uuids(events)
    )
    .fetch_all(&mut *tx)
    .await?;
    let units: Vec<_> = rows
        .iter()
        .map(|row| Returned {
            key: PoolKey {
                account: AccountId(row.account_id),
                usage_type: row.usage_type.clone(),
                period_start: row.period_start.unix_timestamp(),
            },
            units: -row.delta_units,
            is_leased: row.leased,
        })
        .collect();
    let returned = pools::give_back(&mut tx, &units).await?;
    sqlx::query!(
        "update corrections c set published_at = now(), pool_returned_at = now(), pool_returned_units = n.units
         from unnest($1::uuid[], $2::bigint[]) as n (id, units) where c.id = n.id",
        &rows.iter().map(|row| row.id).collect::<Vec<_>>(),
        &returned
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    let given = rows.iter().zip(&returned).filter(|(_, units)| **units > 0);
    let mut accounts: Vec<_> = given.map(|(row, _)| AccountId(row.account_id)).collect();
    accounts.sort_unstable();
    accounts.dedup();
    Ok(accounts)
}

fn uuids(events: &[EventId]) -> Vec<Uuid> {
    events.iter().map(|event| event.0).collect()
}

fn facts_text(facts: &Facts) -> String {
    serde_json::to_string(facts).expect("ids, texts and numbers are JSON")
}

struct Row {
    id: Uuid,
    correction_id: Uuid,
    account_id: Uuid,
    event_id: Uuid,
    usage_type: String,
    period_start: OffsetDateTime,
    cost_units: i64,
    delta_units: i64,
    units_after: i64,
    reason: String,
    requested_by: String,
    created_at: OffsetDateTime,
    published_at: Option<OffsetDateTime>,
    pool_returned_units: Option<i64>,
}

impl Row {
    fn into_correction(self) -> Correction {
        Correction {
            id: EventId(self.id),
            correction_id: self.correction_id,
            account_id: AccountId(self.account_id),
            event_id: EventId(self.event_id),
            usage_type: self.usage_type,
            period_start: self.period_start,
            cost_units: self.cost_units,
            delta_units: self.delta_units,
            units_after: self.units_after,
            reason: self.reason,
            requested_by: self.requested_by,
            created_at: self.created_at,
            published_at: self.published_at,
            pool_returned_units: self.pool_returned_units,
        }
    }
}
