//! Claims of open reports, committed before the calls. A claim ends by the database's clock: the clocks of two workers may differ,
//! and the billing clock can be moved.

use protocol::reports::{
    period::{BilledBy, BillingPeriod},
    report::{CLAIM, Next, Report},
};
use schema::{AccountId, period::instant};
use sqlx::{Postgres, Transaction};
use time::OffsetDateTime;
use tracing::{debug, error};
use uuid::Uuid;

use super::sent::Sent;
use crate::reports::Reporter;

/// Reports claimed at once: the bound of one transaction and of the memory they take.
const CLAIMED: i64 = 256;

/// Which open reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Reports that are due.
    Due,
    /// All, even those that wait after a failure.
    All,
}

pub(super) struct Claimed {
    pub(super) id: Uuid,
    pub(super) identifier: String,
    pub(super) period: BillingPeriod,
    pub(super) usage_type: String,
    pub(super) from: i64,
    pub(super) to: i64,
    pub(super) reported_for: i64,
    /// Its state before this attempt.
    pub(super) report: Report,
    pub(super) attempt: Attempt,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    Send,
    Compare,
}

/// Claims reports to send or compare, committed before the calls, and settles those that need no call.
pub(super) async fn claim(
    reporter: &Reporter,
    accounts: &[AccountId],
    which: Which,
    now: i64,
    sent: &mut Sent,
) -> sqlx::Result<Vec<Claimed>> {
    let mut tx = reporter.db.begin().await?;
    let rows = sqlx::query!(
        r#"select r.id, r.identifier, r.account_id, r.usage_type, r.customer_id, r.from_units, r.to_units, r.reported_for,
                  r.attempts, r.first_sent_at, r.last_attempt_at, p.period_start,
                  coalesce(p.bills_at, p.period_end) as "bills_at!",
                  coalesce(p.reports_from, p.period_start) as "reports_from!", p.meter_slot, p.stripe_subscription_id, p.plan_id,
                  p.version_id, p.billed_by,
                  p.final_at, c.deleted_at as "deleted_at?"
           from meter_reports r
               join billing_periods p on p.account_id = r.account_id and p.period_start = r.period_start
               left join stripe_customers c on c.customer_id = r.customer_id
           where r.state = 'open' and r.account_id = any($1) and (r.claimed_until is null or r.claimed_until <= now())
               and ($3 or r.next_attempt_at <= $2)
           order by r.account_id, r.usage_type limit $4 for update of r skip locked"#,
        &accounts.iter().map(|account| account.0).collect::<Vec<_>>(),
        instant(now),
        which == Which::All,
        CLAIMED
    )
    .fetch_all(&mut *tx)
    .await?;
    let (mut claimed, mut settled) = (Vec::new(), Vec::new());
    for row in rows {
        let period = BillingPeriod {
            account: AccountId(row.account_id),
            start: row.period_start.unix_timestamp(),
            from: row.reports_from.unix_timestamp(),
            end: row.bills_at.unix_timestamp(),
            meter_slot: row.meter_slot,
            customer: row.customer_id,
            subscription: row.stripe_subscription_id,
            plan: row.plan_id,
            version: row.version_id,
            final_at: row.final_at.map(OffsetDateTime::unix_timestamp),
            billed_by: BilledBy::from_stored(&row.billed_by),
        };
        let report = Report {
            attempts: row.attempts,
            first_sent_at: row.first_sent_at.map(OffsetDateTime::unix_timestamp),
            last_attempt_at: row.last_attempt_at.map(OffsetDateTime::unix_timestamp),
        };
        let reported_for = row.reported_for.unix_timestamp();
        let attempt = match report.next(period.way_of(reported_for, now), now) {
            // Stripe accepts events of a deleted customer, but bills them to no one.
            Next::Send if row.deleted_at.is_some() => {
                error!(report.identifier = row.identifier, account.id = %period.account, "parked a report: its customer was deleted");
                sent.parked += 1;
                settled.push((row.id, "parked", now, Some("the customer was deleted in Stripe")));
                continue;
            }
            Next::Send => Attempt::Send,
            Next::Compare => Attempt::Compare,
            Next::Wait(until) => {
                sent.postponed += 1;
                settled.push((row.id, "open", until, None));
                continue;
            }
            Next::Withdraw(late) => {
                debug!(
                    report.identifier = row.identifier,
                    reason = late.as_str(),
                    "withdrew a report"
                );
                sent.withdrawn += 1;
                settled.push((row.id, "withdrawn", now, None));
                continue;
            }
        };
        claimed.push(Claimed {
            id: row.id,
            identifier: row.identifier,
            usage_type: row.usage_type,
            period,
            from: row.from_units,
            to: row.to_units,
            reported_for,
            report,
            attempt,
        });
    }
    settle(&mut tx, &settled, now).await?;
    begin(&mut tx, &claimed, now).await?;
    tx.commit().await?;
    Ok(claimed)
}

async fn settle(
    tx: &mut Transaction<'_, Postgres>,
    reports: &[(Uuid, &str, i64, Option<&str>)],
    now: i64,
) -> sqlx::Result<()> {
    if reports.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "update meter_reports r set state = s.state, next_attempt_at = s.next_attempt_at, claimed_until = null,
             done_at = case when s.state = 'withdrawn' then $5::timestamptz end, error = coalesce(s.error, r.error)
         from unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::text[]) as s (id, state, next_attempt_at, error)
         where r.id = s.id",
        &reports.iter().map(|report| report.0).collect::<Vec<_>>(),
        &reports.iter().map(|report| report.1.to_owned()).collect::<Vec<_>>(),
        &reports.iter().map(|report| instant(report.2)).collect::<Vec<_>>(),
        &reports
            .iter()
            .map(|report| report.3.map(str::to_owned))
            .collect::<Vec<_>>() as &[Option<String>],
        instant(now)
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

async fn begin(tx: &mut Transaction<'_, Postgres>, claimed: &[Claimed], now: i64) -> sqlx::Result<()> {
    if claimed.is_empty() {
        return Ok(());
    }
    let begun: Vec<_> = claimed
        .iter()
        .map(|claimed| match claimed.attempt {
            Attempt::Send => claimed.report.sending(now),
            Attempt::Compare => claimed.report.comparing(),
        })
        .collect();
    sqlx::query!(
        "update meter_reports r set attempts = b.attempts, first_sent_at = b.first_sent_at,
             last_attempt_at = b.last_attempt_at, claimed_until = now() + $5::bigint * interval '1 second'
         from unnest($1::uuid[], $2::integer[], $3::timestamptz[], $4::timestamptz[])
             as b (id, attempts, first_sent_at, last_attempt_at)
         where r.id = b.id",
        &claimed.iter().map(|claimed| claimed.id).collect::<Vec<_>>(),
        &begun.iter().map(|report| report.attempts).collect::<Vec<_>>(),
        &begun
            .iter()
            .map(|report| report.first_sent_at.map(instant))
            .collect::<Vec<_>>() as &[Option<OffsetDateTime>],
        &begun
            .iter()
            .map(|report| report.last_attempt_at.map(instant))
            .collect::<Vec<_>>() as &[Option<OffsetDateTime>],
        CLAIM
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}
