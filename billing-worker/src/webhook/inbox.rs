//! The inbox: each event is stored once, kept until it is applied, and deleted long after.

use schema::period::instant;
use serde_json::json;
use sqlx::PgPool;
use time::OffsetDateTime;

use super::{effect, envelope::Envelope};
use crate::{
    administration::{Administration, audit},
    error::Error,
};

/// Stores an event; false: it was already stored.
pub async fn store(db: &PgPool, event: &Envelope, body: &[u8], now: OffsetDateTime) -> Result<bool, Error> {
    let is_ours = effect::is_ours(&event.kind);
    let stored = sqlx::query!(
        "insert into webhook_events (id, type, created_at, livemode, api_version, object_id, customer_id, subscription_id,
             payload, state, done_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) on conflict (id) do nothing",
        event.id,
        event.kind,
        instant(event.created),
        event.livemode,
        event.api_version,
        event.object_id,
        event.customer_id,
        event.subscription_id,
        body,
        if is_ours { "received" } else { "ignored" },
        (!is_ours).then_some(now)
    )
    .execute(db)
    .await?;
    Ok(stored.rows_affected() > 0)
}

/// Keeps a body that Stripe signed and this service cannot read.
pub async fn store_unreadable(db: &PgPool, id: &str, body: &[u8], why: &str) -> Result<(), Error> {
    sqlx::query!(
        "insert into webhook_events (id, type, created_at, livemode, payload, state, error)
         values ($1, '', now(), false, $2, 'unreadable', $3) on conflict (id) do nothing",
        id,
        body,
        why
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Deletes done events that Stripe no longer keeps, so that a request for undelivered events does not store them again. Returns
/// their number.
pub async fn forget(db: &PgPool) -> Result<u64, Error> {
    const KEPT_DAYS: i32 = 40;
    /// Rows of one statement.
    const AT_ONCE: i64 = 5_000;
    let mut forgotten = 0;
    loop {
        let deleted = sqlx::query!(
            "delete from webhook_events where id in (
                 select id from webhook_events where state in ('done', 'ignored')
                     and done_at < now() - make_interval(days => $1) limit $2)",
            KEPT_DAYS,
            AT_ONCE
        )
        .execute(db)
        .await?
        .rows_affected();
        forgotten += deleted;
        if deleted == 0 {
            return Ok(forgotten);
        }
    }
}

/// Lets a parked or done event be processed again.
pub async fn retry(admin: &Administration, id: &str) -> Result<(), Error> {
    let mut tx = admin.db.begin().await?;
    let found = sqlx::query!(
        "update webhook_events set state = 'received', attempts = 0, next_attempt_at = now(), done_at = null
         where id = $1 and state in ('parked', 'ignored', 'done')",
        id
    )
    .execute(&mut *tx)
    .await?;
    if found.rows_affected() == 0 {
        return Err(Error::UnknownStripeEvent(id.to_owned()));
    }
    let entry = audit::Entry {
        action: "stripe_event.retry",
        account: None,
        subject: id.to_owned(),
        details: json!({}),
        actor: admin.actor(),
    };
    audit::record(&mut tx, entry).await?;
    tx.commit().await?;
    Ok(())
}
