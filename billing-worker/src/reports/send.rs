//! Sends reports: claims open ones, sends each once, and stores the outcome.
//!
//! What it promises: an attempt is in the database before it is made; at most one is in flight for a customer and a meter; the
//! response to one customer's report delays no other customer's.

use anyhow::{Context, Result, bail};
use futures_util::{StreamExt, stream};
use schema::{AccountId, period::instant};
use serde::de::IgnoredAny;
use sqlx::{Postgres, Transaction};
use stripe_billing::billing_meter_event::CreateBillingMeterEvent;
use time::OffsetDateTime;
use tracing::{debug, error, warn};
use uuid::Uuid;

use super::{
    Reporter,
    outcome::{is_everybodys, outcome},
    period::{BillingPeriod, Window},
    report::{CLAIM, Mark, Next, Report},
};
use crate::stripe::{StripeError, Write, names};

/// Reports claimed at once: the bound of one transaction and of the memory they take.
const CLAIMED: i64 = 256;
/// Outcomes stored at once.
const MARKED: usize = 64;

/// Outcomes of reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    pub delivered: u64,
    /// Sent again later.
    pub postponed: u64,
    pub parked: u64,
    /// Their period takes no more reports: the units are carried.
    pub withdrawn: u64,
    /// Of the postponed: Stripe has no meter for their usage type.
    pub without_meter: u64,
}

/// Which open reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Reports that are due.
    Due,
    /// All, even those that wait after a failure.
    All,
}

struct Claimed {
    id: Uuid,
    identifier: String,
    account: AccountId,
    usage_type: String,
    customer: String,
    from: i64,
    to: i64,
    reported_for: i64,
    window: Window,
    /// Its state before this attempt.
    report: Report,
    attempt: Attempt,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attempt {
    Send,
    Compare,
}

struct Answered {
    claimed: Claimed,
    mark: Mark,
    /// The failure concerns all reports of its usage type, or all reports, until an operator fixes it.
    everybodys: Option<StripeError>,
}

/// Sends the open reports of a page of accounts.
pub async fn page(reporter: &Reporter, accounts: &[AccountId], which: Which, now: i64) -> Result<Sent> {
    let mut sent = Sent::default();
    loop {
        let claimed = claim(reporter, accounts, which, now, &mut sent)
            .await
            .context("claiming reports")?;
        let count = claimed.len() as i64;
        let attempts = stream::iter(claimed).map(|claimed| attempt(reporter, claimed, now));
        let mut answers = attempts
            .buffer_unordered(usize::from(reporter.settings.report_concurrency))
            .ready_chunks(MARKED);
        let mut unauthorized = None;
        while let Some(answers) = answers.next().await {
            mark(reporter, &answers, now, &mut sent)
                .await
                .context("storing the outcome of reports")?;
            for everybodys in answers.into_iter().filter_map(|answered| answered.everybodys) {
                match everybodys {
                    StripeError::Refused(_) => sent.without_meter += 1,
                    error => unauthorized = Some(error),
                }
            }
        }
        if let Some(error) = unauthorized {
            bail!("no usage can be reported: {error}");
        }
        // Claimed reports are not due any more, except after a comparison, which an attempt follows. An account has at most a few
        // reports.
        if count == 0 || which == Which::All {
            return Ok(sent);
        }
    }
}

async fn attempt(reporter: &Reporter, claimed: Claimed, now: i64) -> Answered {
    let mut everybodys = None;
    let mut theirs = |error: &StripeError| {
        if is_everybodys(error) {
            everybodys = Some(error.clone());
        }
    };
    let mark = match claimed.attempt {
        Attempt::Send => {
            let payload = [
                (names::PAYLOAD_CUSTOMER, claimed.customer.clone()),
                (names::PAYLOAD_VALUE, (claimed.to - claimed.from).to_string()),
            ];
            let payload = payload.map(|(key, value)| (key.to_owned(), value));
            let request = CreateBillingMeterEvent::new(names::meter_event_name(&claimed.usage_type), payload)
                .identifier(&claimed.identifier)
                .timestamp(claimed.reported_for);
            let answer = reporter.stripe.write::<IgnoredAny>(&request, Write::MeterEvent).await;
            answer.as_ref().err().into_iter().for_each(&mut theirs);
            claimed.report.sent(outcome(answer.map(|_| ())), now)
        }
        Attempt::Compare => {
            let told = reporter
                .meters
                .told(&reporter.stripe, &claimed.customer, &claimed.usage_type, claimed.window)
                .await;
            match told {
                Ok(told) => claimed.report.compared(claimed.from, claimed.to, told, now),
                Err(error) => {
                    theirs(&error);
                    match error {
                        StripeError::Refused(_) if everybodys.is_none() => Mark::Parked {
                            first_sent_at: claimed.report.first_sent_at,
                            error: format!("could not read Stripe's summaries: {error}"),
                        },
                        error => claimed.report.not_compared(error.to_string(), now),
                    }
                }
            }
        }
    };
    Answered {
        claimed,
        mark,
        everybodys,
    }
}

/// Claims reports to send or compare, committed before the calls, and settles those that need no call.
async fn claim(
    reporter: &Reporter,
    accounts: &[AccountId],
    which: Which,
    now: i64,
    sent: &mut Sent,
) -> sqlx::Result<Vec<Claimed>> {
    let mut tx = reporter.db.begin().await?;
    let rows = sqlx::query!(
        r#"select r.id, r.identifier, r.account_id, r.usage_type, r.customer_id, r.from_units, r.to_units, r.reported_for,
                  r.attempts, r.first_sent_at, r.last_attempt_at, p.period_start, p.period_end, p.stripe_subscription_id,
                  p.final_at, c.deleted_at as "deleted_at?"
           from meter_reports r
               join billing_periods p on p.account_id = r.account_id and p.period_start = r.period_start
               left join stripe_customers c on c.customer_id = r.customer_id
           where r.state = 'open' and r.account_id = any($1) and (r.claimed_until is null or r.claimed_until <= $2)
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
            end: row.period_end.unix_timestamp(),
            customer: row.customer_id,
            subscription: row.stripe_subscription_id,
            final_at: row.final_at.map(OffsetDateTime::unix_timestamp),
        };
        let report = Report {
            attempts: row.attempts,
            first_sent_at: row.first_sent_at.map(OffsetDateTime::unix_timestamp),
            last_attempt_at: row.last_attempt_at.map(OffsetDateTime::unix_timestamp),
        };
        let reported_for = row.reported_for.unix_timestamp();
        let attempt = match report.next(period.way_of(reported_for, now), now) {
            // Stripe accepts events of a deleted customer and bills them to nobody.
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
            account: period.account,
            usage_type: row.usage_type,
            window: period.window(),
            customer: period.customer,
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
             last_attempt_at = b.last_attempt_at, claimed_until = $5
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
        instant(now + CLAIM)
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Stores outcomes. The outcome of an attempt that another attempt has followed is ignored, except a delivery, which stays true.
async fn mark(reporter: &Reporter, answers: &[Answered], now: i64, sent: &mut Sent) -> sqlx::Result<()> {
    let mut delivered = Vec::new();
    let (mut ids, mut attempts, mut states, mut firsts, mut nexts, mut errors) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for Answered { claimed, mark, .. } in answers {
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
                error!(report.identifier = claimed.identifier, account.id = %claimed.account, "parked a report: {error}");
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
