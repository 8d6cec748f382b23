//! The inbox: each event is stored once and worked on until its effect is there. Rows are claimed for a while, so that several
//! workers share them and one that dies gives its own back.

use std::{collections::HashMap, time::Duration};

use futures_util::{StreamExt, stream};
use schema::period::instant;
use serde_json::json;
use sqlx::PgPool;
use time::OffsetDateTime;
use tracing::{error, warn};

use super::{effect, envelope::Envelope};
use crate::{
    administration::{Administration, audit},
    error::Error,
    metrics::Metrics,
    subscriptions::{billing::Billing, turns::TURNS},
};

/// Events of one step, and how many of them at once.
const CLAIMED_MAX: i64 = 64;
const AT_ONCE: usize = TURNS - 1;

/// For how long a claim holds: longer than the calls to Stripe that one event takes.
const CLAIM: Duration = Duration::from_secs(300);

/// How long an event waits that found others at work with Stripe.
const NO_TURN_S: i64 = 5;

/// After so many attempts, over some two days, an event is parked.
const ATTEMPTS_MAX: i32 = 20;

/// An event to be worked on.
#[derive(Clone, Debug)]
pub struct Received {
    pub id: String,
    pub kind: String,
    pub object_id: Option<String>,
    pub customer_id: Option<String>,
    attempts: i32,
}

/// Stores an event; false: it was there.
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

/// Keeps what Stripe signed and nobody understands.
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

/// Works on what is due; returns how many events that were.
pub async fn step(billing: &Billing, metrics: &Metrics) -> Result<usize, Error> {
    let claimed = sqlx::query_as!(
        Received,
        r#"update webhook_events set attempts = attempts + 1, next_attempt_at = now() + $2::bigint * interval '1 second'
           where id in (select id from webhook_events where state = 'received' and next_attempt_at <= now()
                        order by next_attempt_at limit $1 for update skip locked)
           returning id, type as kind, object_id, customer_id, attempts"#,
        CLAIMED_MAX,
        CLAIM.as_secs() as i64
    )
    .fetch_all(&billing.admin.db)
    .await?;
    let count = claimed.len();
    let work = stream::iter(by_customer(claimed)).for_each_concurrent(AT_ONCE, async |(customer, events)| {
        let done = effect::apply(billing, customer.as_deref(), &events).await;
        for event in &events {
            if let Err(failure) = record(billing, metrics, event, &done).await {
                warn!(
                    event.id = event.id,
                    "could not record what became of an event, it is worked on again: {failure}"
                );
            }
        }
    });
    work.await;
    Ok(count)
}

/// Of one customer's events one look at Stripe is the effect of all; those that name nobody stand alone.
fn by_customer(events: Vec<Received>) -> Vec<(Option<String>, Vec<Received>)> {
    let mut groups: Vec<(Option<String>, Vec<Received>)> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for event in events {
        match event.customer_id.clone() {
            None => groups.push((None, vec![event])),
            Some(customer) => {
                let place = *places.entry(customer.clone()).or_insert_with(|| {
                    groups.push((Some(customer), Vec::new()));
                    groups.len() - 1
                });
                groups[place].1.push(event);
            }
        }
    }
    groups
}

/// Deletes events that are done with and older than Stripe keeps them itself: none of them is stored again by looking for what
/// was never delivered. Returns how many.
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

/// Puts an event that was given up back to work.
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

async fn record(
    billing: &Billing,
    metrics: &Metrics,
    event: &Received,
    done: &Result<bool, Error>,
) -> Result<(), Error> {
    let failure = match done {
        Err(Error::NoTurn) => {
            // No attempt: it was not worked on.
            warn!(
                event.id = event.id,
                "others are at work with Stripe, working on an event in {NO_TURN_S} s"
            );
            sqlx::query!(
                "update webhook_events set attempts = attempts - 1, next_attempt_at = now() + $2::bigint * interval '1 second'
                 where id = $1 and state = 'received'",
                event.id,
                NO_TURN_S
            )
            .execute(&billing.admin.db)
            .await?;
            return Ok(());
        }
        Ok(applied) => {
            sqlx::query!(
                "update webhook_events set state = $2, done_at = now(), error = null where id = $1 and state = 'received'",
                event.id,
                if *applied { "done" } else { "ignored" }
            )
            .execute(&billing.admin.db)
            .await?;
            metrics.webhook_done();
            return Ok(());
        }
        Err(failure) => failure,
    };
    let parked = event.attempts >= ATTEMPTS_MAX;
    let delay_s = delay_s(event.attempts);
    sqlx::query!(
        "update webhook_events set error = $2, state = case when $3 then 'parked' else state end,
             done_at = case when $3 then now() end, next_attempt_at = now() + $4::bigint * interval '1 second'
         where id = $1 and state = 'received'",
        event.id,
        failure.to_string(),
        parked,
        delay_s
    )
    .execute(&billing.admin.db)
    .await?;
    match parked {
        true => {
            metrics.webhook_parked();
            error!(
                event.id = event.id,
                kind = event.kind,
                attempts = event.attempts,
                "gave an event up: {failure}"
            );
        }
        false => warn!(
            event.id = event.id,
            kind = event.kind,
            "working on an event again in {delay_s} s: {failure}"
        ),
    }
    Ok(())
}

/// 2 s, 4 s … up to four hours.
fn delay_s(attempts: i32) -> i64 {
    (1_i64 << attempts.clamp(1, 14)).min(4 * 3_600)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_tried_for_a_day_before_it_is_parked() {
        let total_s: i64 = (1..ATTEMPTS_MAX).map(delay_s).sum();
        assert!(total_s > 24 * 3_600, "{total_s}");
        assert_eq!((delay_s(1), delay_s(2), delay_s(40)), (2, 4, 14_400));
    }
}
