//! Assigns a plan to an account without Stripe, for operators.

use std::time::Duration;

use schema::{
    AccountId, Catalogue, CurrentPlan, Period, SubscriptionId,
    announcement::Announcement,
    period::instant,
    subscription::{Subscription, SubscriptionStatus},
};
use serde_json::json;
use sqlx::{Postgres, Transaction};
use tracing::info;

use super::{current, lease::LeasedTransaction};
use crate::{
    accounts::{self, pool_limits},
    administration::{Administration, audit},
    error::Error,
};

/// Assigns a plan to an account, effective now.
pub async fn assign(admin: &Administration, account: AccountId, plan: &str, now: i64) -> Result<(), Error> {
    /// Another worker may be changing the account's subscription in Stripe.
    const PATIENCE: Duration = Duration::from_secs(10);
    let mut leased = LeasedTransaction::begin(&admin.db, account, PATIENCE).await?;
    accounts::lock(&mut leased.tx, account).await?;
    let changed = assign_locked(&mut leased.tx, admin, account, plan, now).await?;
    leased.commit().await?;
    if changed {
        info!(account.id = %account, plan, by = %admin.by, "assigned a plan");
        admin
            .announcer
            .announce(Announcement::AccountChanged { account_id: account })
            .await;
    }
    Ok(())
}

/// Does the same inside a transaction that holds the account's lock. Returns whether anything changed; the caller announces it.
pub async fn assign_locked(
    tx: &mut Transaction<'_, Postgres>,
    admin: &Administration,
    account: AccountId,
    plan: &str,
    now: i64,
) -> Result<bool, Error> {
    let plan = &admin.plan(plan)?.id;
    let paid = sqlx::query_scalar!(
        "select stripe_subscription_id from subscriptions
         where account_id = $1 and is_current and stripe_subscription_id is not null",
        account.0
    )
    .fetch_optional(&mut **tx)
    .await?;
    if let Some(paid) = paid.flatten() {
        let message = format!("the account pays for the subscription {paid} in Stripe: change or cancel that one");
        return Err(Error::Conflict(message));
    }
    let current = current::subscriptions(&mut **tx, &[account]).await?.remove(&account);
    let next = match decide(current.as_ref(), plan, now) {
        Assignment::Keep => return Ok(false),
        Assignment::Free => None,
        Assignment::Paid { period, anchor } => Some((period, anchor)),
    };
    sqlx::query!(
        "update subscriptions set is_current = false, ends_at = least(ends_at, $2), updated_at = now()
         where account_id = $1 and is_current",
        account.0,
        instant(now)
    )
    .execute(&mut **tx)
    .await?;
    if let Some((period, anchor)) = next {
        sqlx::query!(
            "insert into subscriptions (id, account_id, plan_id, status, period_start, period_end, billing_anchor)
             values ($1, $2, $3, $4, $5, $6, $7)",
            SubscriptionId::new().0,
            account.0,
            plan,
            SubscriptionStatus::Active.as_str(),
            instant(period.start),
            instant(period.end),
            instant(anchor)
        )
        .execute(&mut **tx)
        .await?;
    }
    pool_limits::apply(tx, &admin.catalogue, &[account], now).await?;
    let entry = audit::Entry {
        action: "plan.assign",
        account: Some(account),
        subject: plan.clone(),
        details: json!({ "before": current.map_or(Catalogue::FREE.to_owned(), |before| before.plan) }),
        actor: admin.actor(),
    };
    audit::record(tx, entry).await?;
    Ok(true)
}

#[derive(Debug, PartialEq, Eq)]
enum Assignment {
    /// The account has the plan already, with nothing pending.
    Keep,
    Free,
    Paid {
        period: Period,
        anchor: i64,
    },
}

/// Decides what assigning `plan` at `now` changes. From Free, a paid plan's first month begins now. Between paid plans the
/// running period continues: otherwise switching up and down would grant its units twice.
fn decide(current: Option<&Subscription>, plan: &str, now: i64) -> Assignment {
    if plan == Catalogue::FREE {
        return match current {
            None => Assignment::Keep,
            Some(_) => Assignment::Free,
        };
    }
    let current_plan = CurrentPlan::at(current, now);
    let ended_at = |current: &Subscription| current.ends_at.filter(|at| *at <= now);
    match current {
        Some(current)
            if current.plan == plan && current.status == SubscriptionStatus::Active && current.ends_at.is_none() =>
        {
            Assignment::Keep
        }
        Some(current) if current_plan.name != Catalogue::FREE => Assignment::Paid {
            period: current_plan.period,
            anchor: ended_at(current).unwrap_or(current.anchor),
        },
        _ => Assignment::Paid {
            period: Period::anchored_month(now, now),
            anchor: now,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use schema::Currency;
    use time::macros::datetime;

    fn paid(period: Period, anchor: i64) -> Assignment {
        Assignment::Paid { period, anchor }
    }

    fn pro(now: i64) -> Subscription {
        Subscription {
            id: SubscriptionId::new(),
            plan: "pro".into(),
            version: None,
            status: SubscriptionStatus::Active,
            period: Period::anchored_month(now, now),
            segment_start: None,
            anchor: now,
            ends_at: None,
            then_plan: None,
            then_version: None,
            grace_until: None,
            paid_until: None,
            in_stripe: false,
            currency: Some(Currency::USD),
        }
    }

    #[test]
    fn first_paid_month_begins_now() {
        let now = datetime!(2027-01-31 10:30:05 UTC).unix_timestamp();
        let month = Period::anchored_month(now, now);
        assert_eq!(month.start, now);
        assert_eq!(decide(None, "pro", now), paid(month, now));
        let canceled = Subscription {
            status: SubscriptionStatus::Canceled,
            ..pro(now - 100)
        };
        assert_eq!(decide(Some(&canceled), "pro", now), paid(month, now));
    }

    #[test]
    fn another_paid_plan_goes_on_in_the_running_period() {
        let start = datetime!(2026-11-10 8:00 UTC).unix_timestamp();
        let pro = pro(start);
        assert_eq!(decide(Some(&pro), "enterprise", start + 5), paid(pro.period, start));
        let next = Period::anchored_month(start, pro.period.end);
        assert_eq!(decide(Some(&pro), "enterprise", pro.period.end), paid(next, start));
        let ended = pro.period.start + 1_000;
        let scheduled = Subscription {
            ends_at: Some(ended),
            then_plan: Some("enterprise".into()),
            ..pro
        };
        let running = Period::anchored_month(ended, ended + 5);
        assert_eq!(decide(Some(&scheduled), "pro", ended + 5), paid(running, ended));
    }

    #[test]
    fn same_plan_again_changes_nothing_unless_something_is_pending() {
        let now = datetime!(2026-11-10 8:00 UTC).unix_timestamp();
        let pro = pro(now);
        assert_eq!(decide(Some(&pro), "pro", now + 5), Assignment::Keep);
        assert_eq!(decide(None, "free", now), Assignment::Keep);
        assert_eq!(decide(Some(&pro), "free", now), Assignment::Free);
        let due_to_end = Subscription {
            ends_at: Some(pro.period.end),
            ..pro.clone()
        };
        let unpaid = Subscription {
            status: SubscriptionStatus::Unpaid,
            ..pro.clone()
        };
        for pending in [due_to_end, unpaid] {
            assert_eq!(decide(Some(&pending), "pro", now + 5), paid(pro.period, now));
        }
    }
}
