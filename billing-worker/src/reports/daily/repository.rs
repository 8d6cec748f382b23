//! Checks of money in PostgreSQL. Claims end by the database's clock.

use std::collections::HashSet;

use schema::{AccountId, period::instant};
use serde_json::json;
use sqlx::PgPool;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{DAY, metrics::Sums};
use crate::reports::money::PeriodMoney;

/// Seconds. A page takes less, even if some of its accounts are compared with Stripe.
const CLAIM: i64 = 900;
/// How long after an invoice is final the account is checked, and how long one that was missed is looked for.
const AFTER_FINAL: i64 = 60;
const FINAL_WITHIN: i64 = 2 * DAY;
/// A difference may be gone after an hour.
const AGAIN: i64 = 3_600;
/// Accounts of one step.
const DUE_MAX: i64 = 50;

#[derive(Clone, Debug)]
pub(super) struct Sweep {
    pub after: AccountId,
    is_running: bool,
    completed_at: Option<i64>,
    claimed_until: OffsetDateTime,
}

impl Sweep {
    pub(super) fn is_due(&self, now: i64) -> bool {
        self.is_running || self.completed_at.is_none_or(|at| at + DAY <= now)
    }
}

/// `None`: another worker checks.
pub(super) async fn claim(db: &PgPool, is_live: bool, now: i64) -> sqlx::Result<Option<Sweep>> {
    let row = sqlx::query!(
        r#"insert into money_sweeps (livemode, claimed_until) values ($1, now() + $2::bigint * interval '1 second')
           on conflict (livemode) do update set claimed_until = excluded.claimed_until
               where money_sweeps.claimed_until is null or money_sweeps.claimed_until <= now()
           returning after_account, started_at, completed_at, claimed_until as "claimed_until!""#,
        is_live,
        CLAIM
    )
    .fetch_optional(db)
    .await?;
    let sweep = row.map(|row| Sweep {
        after: row.after_account.map_or(AccountId::NIL, AccountId),
        is_running: row.started_at.is_some(),
        completed_at: row.completed_at.map(OffsetDateTime::unix_timestamp),
        claimed_until: row.claimed_until,
    });
    if let Some(sweep) = sweep.as_ref().filter(|sweep| sweep.is_due(now) && !sweep.is_running) {
        sqlx::query!(
            "update money_sweeps set started_at = $2 where livemode = $1 and claimed_until = $3",
            is_live,
            instant(now),
            sweep.claimed_until
        )
        .execute(db)
        .await?;
    }
    Ok(sweep)
}

/// Another worker may go on. A claim that ended is another worker's.
pub(super) async fn release(db: &PgPool, is_live: bool, sweep: &Sweep) -> sqlx::Result<()> {
    sqlx::query!(
        "update money_sweeps set claimed_until = null where livemode = $1 and claimed_until = $2",
        is_live,
        sweep.claimed_until
    )
    .execute(db)
    .await?;
    Ok(())
}

/// A page is done.
pub(super) async fn advance(db: &PgPool, is_live: bool, last: AccountId) -> sqlx::Result<()> {
    sqlx::query!(
        "update money_sweeps set after_account = greatest(after_account, $2) where livemode = $1 and started_at is not null",
        is_live,
        last.0
    )
    .execute(db)
    .await?;
    Ok(())
}

/// All pages are done.
pub(super) async fn complete(db: &PgPool, is_live: bool, now: i64) -> sqlx::Result<()> {
    sqlx::query!(
        "update money_sweeps set after_account = null, started_at = null, completed_at = $2 where livemode = $1",
        is_live,
        instant(now)
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Accounts with a final invoice that was not checked, or with a difference that may be gone. `true`: Stripe has to be asked.
pub(super) async fn due(db: &PgPool, is_live: bool, now: i64) -> sqlx::Result<Vec<(AccountId, bool)>> {
    let rows = sqlx::query!(
        r#"select account_id as "account_id!", bool_or(is_fresh) as "is_fresh!" from (
               select p.account_id, false as is_fresh
               from billing_periods p left join money_checks c
                   on c.account_id = p.account_id and c.period_start = p.period_start
               where p.final_at > $1 and p.final_at <= $2 and (c.checked_at is null
                   or c.checked_at < p.final_at + $3::bigint * interval '1 second'
                   or c.state = 'pending' and c.checked_at <= $4)
               union all
               select account_id, is_fresh from money_checks
               where state = 'difference' and accepted_difference is distinct from difference and checked_at <= $4
           ) as due
           where not exists (select from stripe_customers c where c.account_id = due.account_id and c.livemode <> $5)
           group by account_id order by account_id limit $6"#,
        instant(now - FINAL_WITHIN),
        instant(now - AFTER_FINAL),
        AFTER_FINAL,
        instant(now - AGAIN),
        is_live,
        DUE_MAX
    )
    .fetch_all(db)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (AccountId(row.account_id), row.is_fresh))
        .collect())
}

/// Accounts with a difference that Stripe itself showed.
pub(super) async fn fresh_differences(db: &PgPool, accounts: &[AccountId]) -> sqlx::Result<HashSet<AccountId>> {
    let ids = sqlx::query_scalar!(
        "select distinct account_id from money_checks where state = 'difference' and is_fresh and account_id = any($1)",
        &accounts.iter().map(|account| account.0).collect::<Vec<_>>()
    )
    .fetch_all(db)
    .await?;
    Ok(ids.into_iter().map(AccountId).collect())
}

pub(super) async fn store(db: &PgPool, money: &[PeriodMoney], is_fresh: bool, now: i64) -> sqlx::Result<()> {
    let text = |at: OffsetDateTime| at.format(&Rfc3339).unwrap_or_default();
    let row = |money: &PeriodMoney| {
        let amounts = &money.amounts;
        json!({
            "account_id": money.account_id.0, "period_start": text(money.period_start), "state": money.state.as_str(),
            "currency": money.currency, "owed": amounts.owed_cents, "invoiced": amounts.invoiced_cents,
            "credited": amounts.credited_cents, "pending": amounts.pending_cents, "open": amounts.open_cents,
            "waived": amounts.waived_cents, "difference": amounts.difference_cents, "differences": money.differences,
        })
    };
    let rows: Vec<_> = money.iter().map(row).collect();
    sqlx::query!(
        "insert into money_checks (account_id, period_start, checked_at, is_fresh, state, currency, owed, invoiced, credited, pending,
             open, waived, difference, differences)
         select account_id, period_start, $2, $3, state, currency, owed, invoiced, credited, pending, open, waived, difference,
             differences
         from jsonb_populate_recordset(null::money_checks, $1)
         order by account_id, period_start
         on conflict (account_id, period_start) do update set checked_at = excluded.checked_at, is_fresh = excluded.is_fresh,
             state = excluded.state, currency = excluded.currency, owed = excluded.owed, invoiced = excluded.invoiced,
             credited = excluded.credited, pending = excluded.pending, open = excluded.open, waived = excluded.waived,
             difference = excluded.difference, differences = excluded.differences
             where money_checks.checked_at <= excluded.checked_at",
        json!(rows),
        instant(now),
        is_fresh
    )
    .execute(db)
    .await?;
    Ok(())
}

pub(super) async fn sums(db: &PgPool, is_live: bool) -> sqlx::Result<Sums> {
    let rows = sqlx::query!(
        r#"select currency, count(*) as "periods!", coalesce(sum(least(abs(difference), 1000000000000000)), 0)::bigint as "cents!"
           from money_checks where state = 'difference' and accepted_difference is distinct from difference group by currency"#
    )
    .fetch_all(db)
    .await?;
    let completed = sqlx::query_scalar!("select completed_at from money_sweeps where livemode = $1", is_live)
        .fetch_optional(db)
        .await?;
    Ok(Sums {
        periods: rows.iter().map(|row| row.periods).sum(),
        cents: rows.into_iter().map(|row| (row.currency, row.cents)).collect(),
        checked_at: completed.flatten().map_or(0, OffsetDateTime::unix_timestamp),
    })
}
