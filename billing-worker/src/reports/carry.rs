//! Usage that arrived too late for its period's invoice. Each carry is a row, written in the transaction that takes the units
//! out of their period, so that no unit is counted twice or not at all.

mod arrive;
mod take_back;

use anyhow::Result;
use protocol::reports::{
    identifier::LineId,
    late::{Place, Policy, place},
    period::{BilledBy, BillingPeriod, Late as Why},
};
use schema::period::instant;
use sqlx::{Postgres, Transaction};
use tracing::info;
use uuid::Uuid;

pub(super) use self::arrive::{are_waiting, arrive};
use self::take_back::take_back;
use super::{
    page::{Page, Prices},
    settings::ReportSettings,
};

/// Usage of a trial is free. In the paid period that follows it would be billed, so it becomes a charge of nothing.
const OF_TRIAL: Policy = Policy::CreditOrCharge;

/// Units that can no longer be on their period's invoice.
pub(super) struct Late<'a> {
    pub line: &'a LineId,
    pub period: &'a BillingPeriod,
    pub units: i64,
    pub why: Why,
}

/// Units that leave a line, and where they go.
struct Part {
    units: i64,
    place: Place,
    to: Option<LineId>,
}

/// Takes units out of a locked line. `false`: another worker holds the line that they go to; the next step carries them.
pub(super) async fn write(
    tx: &mut Transaction<'_, Postgres>,
    page: &mut Page,
    late: Late<'_>,
    settings: &ReportSettings,
    now: i64,
) -> Result<bool> {
    let parts = match late.units < 0 {
        true => take_back(tx, page, &late, now).await?,
        false => forward(tx, page, &late, settings, now).await?,
    };
    let Some(parts) = parts else { return Ok(false) };
    for part in &parts {
        insert(tx, page, &late, part, now).await?;
    }
    Ok(true)
}

/// Late usage: all of it goes to one place.
async fn forward(
    tx: &mut Transaction<'_, Postgres>,
    page: &Page,
    late: &Late<'_>,
    settings: &ReportSettings,
    now: i64,
) -> Result<Option<Vec<Part>>> {
    let Late {
        line, period, units, ..
    } = *late;
    let next = page.next(line, Prices::of(period), now);
    let policy = match is_of_trial(tx, line, &period.subscription).await? {
        true => OF_TRIAL,
        false if period.billed_by == BilledBy::Charge => Policy::CreditOrCharge,
        false => settings.late_usage.policy(),
    };
    let place = place(units, policy, next != Ok(None), 0, settings.late_charge_after_s());
    let to = match (place, next) {
        (Place::NextPeriod, Err(())) => return Ok(None),
        (Place::NextPeriod, Ok(next)) => next,
        _ => None,
    };
    Ok(Some(vec![Part { units, place, to }]))
}

async fn insert(
    tx: &mut Transaction<'_, Postgres>,
    page: &mut Page,
    late: &Late<'_>,
    part: &Part,
    now: i64,
) -> sqlx::Result<()> {
    let Late { line, period, why, .. } = *late;
    let Part { units, place, to } = part;
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
        place.as_str(),
        to.as_ref().map(|to| instant(to.start)),
        period.customer,
        instant(now)
    )
    .execute(&mut **tx)
    .await?;
    page.change(line, |line| line.carry_out(*units));
    if let Some(to) = to {
        page.carry_in(to, *units);
    }
    info!(
        carry.id = %id, account.id = %line.account, usage_type = line.usage_type, period.start = %instant(line.start), units,
        reason = why.as_str(), policy = place.as_str(), to = to.as_ref().map(|to| instant(to.start).to_string()),
        "carried late usage"
    );
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
