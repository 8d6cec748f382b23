//! Reports all of one account's usage now.

use std::time::Duration;

use anyhow::{Context, Result};
use protocol::reports::identifier::LineId;
use schema::AccountId;
use serde::Serialize;
use service::Backoff;
use tokio::time::{Instant, sleep};
use tracing::info;

use super::{
    Reporter,
    send::Which,
    step::{Step, page},
};

/// The result of a flush.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Flushed {
    pub delivered: u64,
    /// Reports that Stripe may not have yet: sent later.
    pub open: u64,
    pub parked: u64,
    /// Lines that could not be counted, or whose reports have to wait for others.
    #[serde(skip)]
    pub held: Vec<LineId>,
}

/// Counts one account and reports all of its usage now, with a few tries: before its subscription is cancelled at once, and while
/// an invoice is a draft. Reports that stay open are sent later, or their units are carried.
pub async fn flush(reporter: &Reporter, account: AccountId, now: i64) -> Result<Flushed> {
    const TRIES: u32 = 4;
    let (mut step, began) = (Step::default(), Instant::now());
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(4));
    loop {
        let at = now + i64::try_from(began.elapsed().as_secs()).unwrap_or(0);
        let mut failure = None;
        let before = step;
        let held = page(reporter, &[account], Which::All, at, &mut step, &mut failure).await?;
        if let Some(failure) = failure {
            return Err(failure);
        }
        // An earlier report blocked later usage: count once more.
        let done = step.sent.delivered + step.sent.withdrawn - before.sent.delivered - before.sent.withdrawn;
        let is_counted = done == step.written - before.written;
        let left = sqlx::query!(
            r#"select count(*) filter (where state = 'open') as "open!", count(*) filter (where state = 'parked') as "parked!"
               from meter_reports where state in ('open', 'parked') and account_id = $1"#,
            account.0
        )
        .fetch_one(&reporter.db)
        .await
        .context("counting open reports")?;
        let flushed = Flushed {
            delivered: step.sent.delivered,
            open: left.open.unsigned_abs(),
            parked: left.parked.unsigned_abs(),
            held,
        };
        if left.open == 0 && is_counted && flushed.held.is_empty() || backoff.tries() + 1 >= TRIES {
            info!(
                account.id = %account,
                delivered = flushed.delivered,
                open = flushed.open,
                parked = flushed.parked,
                held = flushed.held.len(),
                "flushed usage"
            );
            return Ok(flushed);
        }
        let delay = backoff.next_delay();
        if left.open > 0 || !flushed.held.is_empty() {
            sleep(delay).await;
        }
    }
}
