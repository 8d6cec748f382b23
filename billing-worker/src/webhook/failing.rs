//! Events from Stripe that an operator must look at: the inbox gave up on them, cannot read them, or failed several times.

use serde::Serialize;
use sqlx::PgPool;
use time::OffsetDateTime;

use crate::error::Error;

/// An event is shown after this many failures, about 15 seconds: a single one is soon over.
const FAILURES_MIN: i32 = 3;

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FailingEvent {
    /// `evt_…`, or the hash of a body that cannot be read.
    pub id: String,
    /// Stripe's type, such as `invoice.paid`; empty if the event cannot be read.
    #[serde(rename = "type")]
    pub kind: String,
    pub customer_id: Option<String>,
    /// `received`: it is tried again; `parked`: it is not; `unreadable`.
    pub state: String,
    pub attempts: i32,
    #[serde(with = "time::serde::rfc3339")]
    pub received_at: OffsetDateTime,
    pub error: Option<String>,
}

/// The oldest first.
pub async fn list(db: &PgPool, max: i64) -> Result<Vec<FailingEvent>, Error> {
    let failing = sqlx::query_as!(
        FailingEvent,
        "select id, type as kind, customer_id, state, attempts, received_at, error from webhook_events
         where state in ('unreadable', 'parked') or (state = 'received' and attempts >= $1 and error is not null)
         order by received_at, id limit $2",
        FAILURES_MIN,
        max
    )
    .fetch_all(db)
    .await?;
    Ok(failing)
}
