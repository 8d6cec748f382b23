//! Stores the outcomes of attempts to send reports.

use protocol::reports::report::Mark;
use schema::period::instant;
use time::OffsetDateTime;
use tracing::{error, warn};

use super::{claim::Claimed, sent::Sent};
use crate::{reports::Reporter, stripe::StripeError};

pub(super) struct Attempted {
    pub(super) claimed: Claimed,
    pub(super) mark: Mark,
    /// The failure concerns all reports of its usage type, or all reports, until an operator fixes it.
    pub(super) general: Option<StripeError>,
}

/// Stores outcomes. If another attempt has begun since, the outcome is ignored, unless it is a delivery, which stays true.
pub(super) async fn mark(reporter: &Reporter, attempted: &[Attempted], now: i64, sent: &mut Sent) -> sqlx::Result<()> {
    let mut delivered = Vec::new();
    let (mut ids, mut attempts, mut states, mut firsts, mut nexts, mut errors) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for Attempted { claimed, mark, .. } in attempted {
        let (state, first, next, error) = match mark {
            Mark::Delivered => {
                delivered.push(claimed);
                continue;
            }
            Mark::Open {
                first_sent_at,
                next_attempt_at,
                error,
            } => {
                sent.postponed += 1;
                let why = error.as_deref().unwrap_or("Stripe does not have it");
                warn!(
                    report.identifier = claimed.identifier,
                    "a report will be sent again: {why}"
                );
                ("open", first_sent_at, *next_attempt_at, error.clone())
            }
            Mark::Parked { first_sent_at, error } => {
                sent.parked += 1;
                error!(report.identifier = claimed.identifier, account.id = %claimed.period.account, "parked a report: {error}");
                ("parked", first_sent_at, now, Some(error.clone()))
            }
        };
        ids.push(claimed.id);
        attempts.push(claimed.report.attempts + 1);
        states.push(state.to_owned());
        firsts.push(first.map(instant));
        nexts.push(instant(next));
        errors.push(error);
    }
    sent.delivered += delivered.len() as u64;
    if !delivered.is_empty() {
        sqlx::query!(
            "with done as (
                 update meter_reports set state = 'delivered', done_at = $2, claimed_until = null, error = null
                 where id = any($1) and state in ('open', 'parked')
                 returning account_id, period_start, usage_type, to_units - from_units as units
             )
             update meter_ledger l set reported_units = l.reported_units + done.units,
                 corrected_units = l.corrected_units + least(done.units, 0)
             from done
             where l.account_id = done.account_id and l.period_start = done.period_start
                 and l.usage_type = done.usage_type",
            &delivered.iter().map(|claimed| claimed.id).collect::<Vec<_>>(),
            instant(now)
        )
        .execute(&reporter.db)
        .await?;
        for claimed in delivered {
            let units = claimed.to - claimed.from;
            reporter.metrics.delivered(&claimed.usage_type, units);
        }
    }
    if !ids.is_empty() {
        sqlx::query!(
            "update meter_reports r set state = m.state, first_sent_at = m.first_sent_at,
                 next_attempt_at = m.next_attempt_at, error = m.error, claimed_until = null
             from unnest($1::uuid[], $2::integer[], $3::text[], $4::timestamptz[], $5::timestamptz[], $6::text[])
                 as m (id, attempts, state, first_sent_at, next_attempt_at, error)
             where r.id = m.id and r.attempts = m.attempts and r.state = 'open'",
            &ids,
            &attempts,
            &states,
            &firsts as &[Option<OffsetDateTime>],
            &nexts,
            &errors as &[Option<String>]
        )
        .execute(&reporter.db)
        .await?;
    }
    Ok(())
}
