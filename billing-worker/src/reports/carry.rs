//! Usage that arrived too late for its period's invoice. Each carry is a row, written in the transaction that takes the units
//! out of their period, so that no unit is counted twice or not at all.

use anyhow::Result;
use protocol::reports::{
    identifier::LineId,
    late::{Place, Policy, place},
    period::{BillingPeriod, Late as Why},
};
use schema::{AccountId, period::instant};
use sqlx::{PgPool, Postgres, Transaction};
use tracing::info;
use uuid::Uuid;

use super::{page::Page, settings::ReportSettings};

/// Usage of a trial is free. In the paid period that follows it would be billed, so it becomes an item, which costs nothing.
const OF_TRIAL: Policy = Policy::CreditOrCharge;

/// Units that can no longer be on their period's invoice.
pub(super) struct Late<'a> {
    pub line: &'a LineId,
    pub period: &'a BillingPeriod,
    pub units: i64,
    pub why: Why,
}

/// Takes units out of a locked line. `false`: another worker holds the line that they go to; the next step carries them.
pub(super) async fn write(
    tx: &mut Transaction<'_, Postgres>,
    page: &mut Page,
    late: Late<'_>,
    settings: &ReportSettings,
    now: i64,
) -> Result<bool> {
    let Late {
        line,
        period,
        units,
        why,
    } = late;
    let next = page.next(line, &period.subscription, units, now);
    let policy = match is_of_trial(tx, line, &period.subscription).await? {
        true => OF_TRIAL,
        false => settings.late_usage.policy(),
    };
    let placed = place(units, policy, next != Ok(None), 0, settings.late_charge_after_s());
    let to = match (placed, next) {
        (Place::NextPeriod, Err(())) => return Ok(false),
        (Place::NextPeriod, Ok(next)) => next,
        _ => None,
    };
    let id = Uuid::now_v7();
    sqlx::query!(
        "insert into meter_carries (id, account_id, usage_type, from_period, units, reason, policy, to_period, customer_id,
             next_attempt_at, settled_at, created_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, case when $8::timestamptz is not null then $10::timestamptz end,
             $10)",
        id,
        line.account.0,
        line.usage_type,
        instant(line.start),
        units,
        why.as_str(),
        placed.as_str(),
        to.as_ref().map(|to| instant(to.start)),
        period.customer,
        instant(now)
    )
    .execute(&mut **tx)
    .await?;
    page.change(line, |line| line.carry_out(units));
    if let Some(to) = &to {
        page.carry_in(to, units);
    }
    info!(
        carry.id = %id, account.id = %line.account, usage_type = line.usage_type, period.start = %instant(line.start), units,
        reason = why.as_str(), policy = placed.as_str(), to = to.map(|to| instant(to.start).to_string()),
        "carried late usage"
    );
    Ok(true)
}

/// Whether any of the accounts' carries waits for a next period.
pub(super) async fn are_waiting(db: &PgPool, accounts: &[AccountId]) -> sqlx::Result<bool> {
    let waiting = sqlx::query_scalar!(
        r#"select exists (select from meter_carries
               where settled_at is null and policy = 'next_period' and account_id = any($1)) as "waiting!""#,
        &accounts.iter().map(|account| account.0).collect::<Vec<_>>()
    );
    waiting.fetch_one(db).await
}

/// Moves carries that wait for a next period into it, if there is one now. Usage that has waited long enough becomes a charge.
/// Returns how many arrived.
pub(super) async fn arrive(
    tx: &mut Transaction<'_, Postgres>,
    page: &mut Page,
    accounts: &[AccountId],
    settings: &ReportSettings,
    now: i64,
) -> sqlx::Result<u64> {
    let waiting = sqlx::query!(
        r#"select c.id, c.account_id, c.usage_type, c.from_period, c.units, c.created_at, p.stripe_subscription_id,
             exists (select from subscriptions s where s.stripe_subscription_id = p.stripe_subscription_id
                 and p.period_end <= s.trial_ends_at) as "is_trial!"
         from meter_carries c
             join billing_periods p on p.account_id = c.account_id and p.period_start = c.from_period
         where c.settled_at is null and c.policy = 'next_period' and c.account_id = any($1)
         order by c.id for update of c skip locked"#,
        &accounts.iter().map(|account| account.0).collect::<Vec<_>>()
    )
    .fetch_all(&mut **tx)
    .await?;
    let mut arrived = 0;
    for carry in waiting {
        let from = LineId {
            account: AccountId(carry.account_id),
            start: carry.from_period.unix_timestamp(),
            usage_type: carry.usage_type,
        };
        let next = page.next(&from, &carry.stripe_subscription_id, carry.units, now);
        let waited_s = now - carry.created_at.unix_timestamp();
        // It was written as `next_period`, whatever the setting is now.
        let policy = if carry.is_trial { OF_TRIAL } else { Policy::NextPeriod };
        let placed = place(
            carry.units,
            policy,
            next != Ok(None),
            waited_s,
            settings.late_charge_after_s(),
        );
        if let Place::Charge | Place::Credit = placed {
            become_item(tx, carry.id, placed, now).await?;
            info!(carry.id = %carry.id, account.id = %from.account, units = carry.units, policy = placed.as_str(), "late usage is reported in no period: it becomes an item");
        }
        let (Place::NextPeriod, Ok(Some(to))) = (placed, next) else {
            continue;
        };
        sqlx::query!(
            "update meter_carries set to_period = $2, settled_at = $3 where id = $1",
            carry.id,
            instant(to.start),
            instant(now)
        )
        .execute(&mut **tx)
        .await?;
        page.carry_in(&to, carry.units);
        info!(carry.id = %carry.id, account.id = %from.account, units = carry.units, "moved carried usage into its next period");
        arrived += 1;
    }
    Ok(arrived)
}

/// From now on the carry is an invoice item. A price that was looked up before stays.
async fn become_item(tx: &mut Transaction<'_, Postgres>, carry: Uuid, placed: Place, now: i64) -> sqlx::Result<()> {
    sqlx::query!(
        "update meter_carries set policy = $2, next_attempt_at = $3 where id = $1",
        carry,
        placed.as_str(),
        instant(now)
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Whether the period of this line is a trial.
async fn is_of_trial(tx: &mut Transaction<'_, Postgres>, line: &LineId, subscription: &str) -> sqlx::Result<bool> {
    let is_trial = sqlx::query_scalar!(
        r#"select exists (select from billing_periods p join subscriptions s using (stripe_subscription_id)
               where p.account_id = $1 and p.period_start = $2 and p.stripe_subscription_id = $3
                   and p.period_end <= s.trial_ends_at) as "is_trial!""#,
        line.account.0,
        instant(line.start),
        subscription
    );
    is_trial.fetch_one(&mut **tx).await
}
