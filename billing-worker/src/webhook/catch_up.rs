//! Asks Stripe for events that it could not deliver: the endpoint was wrong, or the service was down for days.

use schema::{clock, period::instant};
use serde_json::Value;
use stripe_core::event::ListEvent;
use tracing::warn;

use super::{envelope::Envelope, inbox};
use crate::{error::Error, stripe::object::List, subscriptions::billing::Billing};

/// How far each check overlaps the one before: an event may appear late in the list, and its delivery may still be in progress.
const OVERLAP_S: i64 = 3 * 3_600;
/// Stripe keeps events for thirty days.
const KEPT_S: i64 = 30 * 86_400;

/// Stores events that were not delivered since the last check. Returns how many were new. The list begins with the newest, and
/// undelivered events stay in it. If it could not be read to its end, the next check starts where this one did.
pub async fn step(billing: &Billing) -> Result<usize, Error> {
    let stripe = billing.stripe()?;
    let now = billing.clock.now_s();
    let seen = sqlx::query_scalar!("select at from stripe_cursors where name = 'catch_up'")
        .fetch_optional(&billing.admin.db)
        .await?;
    let since = seen.map_or(now - KEPT_S, |at| (at.unix_timestamp() - OVERLAP_S).max(now - KEPT_S));
    let (mut after, mut found) = (None::<String>, 0);
    loop {
        let mut list = ListEvent::new()
            .delivery_success(false)
            .created(stripe_types::RangeQueryTs::Bounds(stripe_types::RangeBoundsTs {
                gte: Some(since),
                ..Default::default()
            }))
            .limit(100);
        if let Some(after) = &after {
            list = list.starting_after(after);
        }
        let page: List<Value> = stripe.read(&list).await?;
        for event in &page.data {
            let body = event.to_string();
            match Envelope::parse(body.as_bytes()) {
                Ok(envelope) => {
                    let is_new =
                        inbox::store(&billing.admin.db, &envelope, body.as_bytes(), instant(clock::now_s())).await?;
                    found += usize::from(is_new);
                }
                Err(why) => warn!("skipped a malformed event in Stripe's list: {why}"),
            }
        }
        let last = page.data.last().and_then(|event| event["id"].as_str());
        let Some(last) = last.filter(|_| page.has_more) else {
            break;
        };
        after = Some(last.to_owned());
    }
    sqlx::query!(
        "insert into stripe_cursors (name, at) values ('catch_up', $1) on conflict (name) do update set at = excluded.at",
        instant(now)
    )
    .execute(&billing.admin.db)
    .await?;
    Ok(found)
}
