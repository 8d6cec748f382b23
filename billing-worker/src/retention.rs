//! Deletes rows of `usage_events` when their account's retention is over.
//!
//! What it promises: only rows of closed days go, whose sums stay in `usage_daily`; none of a period that is open, or that
//! bills may still ask for; none that the plan the account has now keeps, so an upgrade saves what is still there.

mod deletion;

use std::collections::HashMap;

use anyhow::{Context, Result};
use clickhouse::{Client, Row};
use schema::{AccountId, Catalogue, Period, Standing, period::instant, standing::Subscription};
use serde::Serialize;
use sqlx::PgPool;
use time::{Date, OffsetDateTime, ext::NumericalDuration};
use tracing::{debug, info};
use uuid::Uuid;

use crate::subscriptions::current;

/// Accounts read from PostgreSQL, and pushed to ClickHouse, at once.
const PAGE: i64 = 10_000;

/// What one step did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retained {
    /// Accounts whose retention was pushed; the others' rows are kept without end.
    pub accounts: u64,
    /// Rows deleted.
    pub rows: u64,
    /// A step is bounded: there is more to delete, and the next step may come at once.
    pub more: bool,
}

/// One row of `account_retention`.
#[derive(Row, Serialize)]
struct AccountRetention {
    #[serde(with = "clickhouse::serde::uuid")]
    push_id: Uuid,
    #[serde(with = "clickhouse::serde::uuid")]
    account_id: Uuid,
    #[serde(with = "clickhouse::serde::time::date")]
    keep_from: Date,
    #[serde(with = "clickhouse::serde::time::datetime")]
    pushed_at: OffsetDateTime,
}

/// Pushes what every account keeps, then deletes by it. To be called once a day by one worker; two at once, or one that was
/// stopped half-way, do no harm. Fails, and asks for someone to look, if a sum reads differently afterwards.
pub async fn step(db: &PgPool, clickhouse: &Client, catalogue: &Catalogue, now: OffsetDateTime) -> Result<Retained> {
    let Some(closed_before) = deletion::closed_before(clickhouse, now).await? else {
        debug!("no day is closed: nothing to delete");
        return Ok(Retained::default());
    };
    let push = Uuid::now_v7();
    let accounts = push_accounts(db, clickhouse, catalogue, push, now).await?;
    let deleted = deletion::delete(clickhouse, push, closed_before).await?;
    info!(accounts, rows = deleted.rows, more = deleted.more, %closed_before, "retention");
    Ok(Retained {
        accounts,
        rows: deleted.rows,
        more: deleted.more,
    })
}

/// An account that is not pushed, because its plan keeps all or because this fails half-way, keeps all.
async fn push_accounts(
    db: &PgPool,
    clickhouse: &Client,
    catalogue: &Catalogue,
    push: Uuid,
    now: OffsetDateTime,
) -> Result<u64> {
    let (mut pushed, mut after) = (0, Uuid::nil());
    loop {
        let ids = sqlx::query_scalar!(
            "select id from accounts where id > $1 order by id limit $2",
            after,
            PAGE
        )
        .fetch_all(db)
        .await
        .context("reading accounts")?;
        let Some(last) = ids.last() else { return Ok(pushed) };
        after = *last;
        let accounts: Vec<_> = ids.into_iter().map(AccountId).collect();
        let current = current::subscriptions(db, &accounts)
            .await
            .context("reading subscriptions")?;
        let open = first_open(db, &accounts).await.context("reading billing periods")?;
        let rows: Vec<_> = accounts
            .iter()
            .filter_map(|account| {
                Some(AccountRetention {
                    push_id: push,
                    account_id: account.0,
                    keep_from: keep_from(catalogue, current.get(account), open.get(&account.0).copied(), now)?,
                    pushed_at: now,
                })
            })
            .collect();
        if rows.is_empty() {
            continue;
        }
        let mut insert = clickhouse
            .insert::<AccountRetention>("account_retention")
            .await
            .context("pushing the accounts' retention")?
            .with_setting("async_insert", "0");
        for row in &rows {
            insert.write(row).await.context("pushing the accounts' retention")?;
        }
        insert.end().await.context("pushing the accounts' retention")?;
        pushed += rows.len() as u64;
    }
}

/// The first day whose rows are kept, by the plan the account has at `now`; `None`: all rows are kept. Also of a plan that
/// the catalogue does not know.
fn keep_from(
    catalogue: &Catalogue,
    subscription: Option<&Subscription>,
    open: Option<OffsetDateTime>,
    now: OffsetDateTime,
) -> Option<Date> {
    let standing = Standing::at(subscription, now.unix_timestamp());
    let days = catalogue.plan(&standing.plan)?.retention_days?;
    let by_plan = now.date().saturating_sub(i64::from(days).days());
    Some(by_plan.min(first_needed(&standing, subscription, open)))
}

/// The first day of the oldest period whose rows may still be asked for. The one place that decides it: the current period
/// and the one before it, and `open`, the start of the oldest billing period that is not frozen: its corrections are read
/// from the rows.
fn first_needed(standing: &Standing, subscription: Option<&Subscription>, open: Option<OffsetDateTime>) -> Date {
    let before = standing.period.start - 1;
    let previous = match subscription {
        Some(subscription) => Period::anchored_month(subscription.anchor, before),
        None => Period::calendar_month(before),
    };
    // From the first of its month: the account may have been on another plan then, with periods that began earlier.
    let first = instant(Period::calendar_month(previous.start).start);
    open.map_or(first, |open| open.min(first)).date()
}

/// The start of the oldest billing period that is not frozen, of those accounts that have one.
async fn first_open(db: &PgPool, accounts: &[AccountId]) -> sqlx::Result<HashMap<Uuid, OffsetDateTime>> {
    let rows = sqlx::query!(
        r#"select account_id, min(period_start) as "start!" from billing_periods
           where frozen_at is null and account_id = any($1) group by account_id"#,
        &accounts.iter().map(|account| account.0).collect::<Vec<_>>()
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(|row| (row.account_id, row.start)).collect())
}

#[cfg(test)]
mod tests {
    use schema::{SubscriptionId, standing::SubscriptionStatus};
    use time::macros::{date, datetime};

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-23 12:00 UTC);

    fn subscription(plan: &str, start: OffsetDateTime, end: OffsetDateTime) -> Subscription {
        Subscription {
            id: SubscriptionId::new(),
            plan: plan.into(),
            status: SubscriptionStatus::Active,
            period: Period {
                start: start.unix_timestamp(),
                end: end.unix_timestamp(),
            },
            anchor: start.unix_timestamp(),
            ends_at: None,
            then_plan: None,
            grace_until: None,
        }
    }

    #[test]
    fn rows_are_kept_as_long_as_the_current_plan_says() {
        let catalogue = Catalogue::built_in();
        let running = (datetime!(2026-11-10 8:00 UTC), datetime!(2026-12-10 8:00 UTC));
        let pro = subscription("pro", running.0, running.1);
        assert_eq!(
            keep_from(&catalogue, Some(&pro), None, NOW),
            Some(date!(2025 - 11 - 23))
        );
        let enterprise = subscription("enterprise", running.0, running.1);
        assert_eq!(keep_from(&catalogue, Some(&enterprise), None, NOW), None);
        let unknown = subscription("platinum", running.0, running.1);
        assert_eq!(keep_from(&catalogue, Some(&unknown), None, NOW), None);
    }

    #[test]
    fn rows_of_a_billing_period_that_is_not_frozen_are_kept() {
        let catalogue = Catalogue::built_in();
        let open = datetime!(2026-06-10 8:00 UTC);
        assert_eq!(
            keep_from(&catalogue, None, Some(open), NOW),
            Some(date!(2026 - 06 - 10))
        );
        let recent = datetime!(2026-11-10 8:00 UTC);
        assert_eq!(
            keep_from(&catalogue, None, Some(recent), NOW),
            Some(date!(2026 - 10 - 01))
        );
    }

    #[test]
    fn rows_of_the_current_and_the_previous_period_are_kept_whatever_the_plan_says() {
        let catalogue = Catalogue::built_in();
        // 30 days would be the 24th of October, in the middle of the previous period.
        assert_eq!(keep_from(&catalogue, None, None, NOW), Some(date!(2026 - 10 - 01)));
        // On the first day of a month as well.
        let first = datetime!(2026-11-01 0:00 UTC);
        assert_eq!(keep_from(&catalogue, None, None, first), Some(date!(2026 - 10 - 01)));
        assert_eq!(
            keep_from(&catalogue, None, None, datetime!(2026-10-31 23:59:59 UTC)),
            Some(date!(2026 - 09 - 01))
        );
        // A subscription that has just ended: Free now, and its last period began in October.
        let mut ended = subscription("pro", datetime!(2026-10-15 8:00 UTC), datetime!(2026-11-15 8:00 UTC));
        ended.ends_at = Some(ended.period.end);
        let keep = keep_from(&catalogue, Some(&ended), None, NOW).unwrap();
        assert!(keep <= date!(2026 - 10 - 01), "{keep}");
    }
}
