//! Carries that wait for a next period.

use protocol::reports::{
    identifier::LineId,
    late::{Place, Policy, place},
};
use schema::{AccountId, period::instant};
use sqlx::{PgPool, Postgres, Transaction};
use tracing::info;
use uuid::Uuid;

use super::OF_TRIAL;
use crate::reports::{
    page::{Page, Prices},
    settings::ReportSettings,
};

/// Whether any of the accounts' carries waits for a next period.
pub(in crate::reports) async fn are_waiting(db: &PgPool, accounts: &[AccountId]) -> sqlx::Result<bool> {
    let waiting = sqlx::query_scalar!(
        r#"select exists (select from meter_carries
               where settled_at is null and policy = 'next_period' and account_id = any($1)) as "waiting!""#,
        &accounts.iter().map(|account| account.0).collect::<Vec<_>>()
    );
    waiting.fetch_one(db).await
}

/// Moves carries that wait for a next period into it, if there is one now. Usage that has waited long enough becomes a charge.
/// Returns how many arrived.
pub(in crate::reports) async fn arrive(
    tx: &mut Transaction<'_, Postgres>,
    page: &mut Page,
    accounts: &[AccountId],
    settings: &ReportSettings,
    now: i64,
) -> sqlx::Result<u64> {
    let waiting = sqlx::query!(
        r#"select c.id, c.account_id, c.usage_type, c.from_period, c.units, c.created_at, p.stripe_subscription_id, p.plan_id,
             p.version_id, exists (select from subscriptions s where s.stripe_subscription_id = p.stripe_subscription_id
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
        let of = Prices {
            subscription: &carry.stripe_subscription_id,
            plan: carry.plan_id.as_deref(),
            version: carry.version_id,
        };
        let next = page.next(&from, of, now);
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
            bill_apart(tx, carry.id, placed, now).await?;
            info!(carry.id = %carry.id, account.id = %from.account, units = carry.units, policy = placed.as_str(), "late usage is reported in no period: it is billed apart");
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

/// From now on the carry is a charge or a credit. A price that was looked up before stays.
async fn bill_apart(tx: &mut Transaction<'_, Postgres>, carry: Uuid, placed: Place, now: i64) -> sqlx::Result<()> {
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
