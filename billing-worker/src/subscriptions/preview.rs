//! The cost of another plan, before a customer decides. The price of a larger plan counts from one second, so that the upgrade can
//! charge exactly what was [previewed](super::previewed).

use schema::{AccountId, Interval, PlanTerms, period::instant};
use serde::Serialize;
use time::OffsetDateTime;

use super::{
    change::{ChangeWhen, begins_now, ends_trial, is_larger, refuse_too_often},
    currency,
    eligibility::refuse_buyer,
    interval, owed, previewed, prices,
    running::Running,
};
use crate::{error::Error, subscriptions::billing::Billing};

/// How long an upgrade can be made for the price of a preview.
const VALID_S: i64 = 600;

/// What a change of plan costs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Preview {
    pub plan: String,
    /// How often it is paid for.
    pub interval: Interval,
    /// Due at once, in the currency's smallest unit: the new plan for the rest of the period, less the unused part of the old
    /// plan. Usage is not a part of it. 0: the change begins with the next period, or it takes a planned change back.
    pub amount_due_cents: i64,
    pub currency: String,
    #[serde(with = "time::serde::rfc3339")]
    pub effective_at: OffsetDateTime,
    /// The price counts from then. An upgrade with it costs what the preview says. `None`: the change begins with the next period.
    #[serde(with = "time::serde::rfc3339::option")]
    pub proration_date: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339")]
    pub computed_at: OffsetDateTime,
    /// An upgrade with `proration_date` is possible until then.
    #[serde(with = "time::serde::rfc3339")]
    pub valid_until: OffsetDateTime,
}

/// What changing to `plan` would cost; changes nothing. `interval`: `None`: as before.
pub async fn preview(
    billing: &Billing,
    account: AccountId,
    plan: &str,
    interval: Option<Interval>,
    when: ChangeWhen,
) -> Result<Preview, Error> {
    let billing = &billing.of(account);
    let plan = prices::for_sale(billing, plan)?;
    let _slot = billing.slot(account).await?;
    let running = Running::find(&billing.admin.db, billing, account).await?;
    let now = billing.clock.now_s();
    let interval = interval.or(running.interval()).unwrap_or_default();
    let is_same = interval::is_same(&running, plan, interval);
    if is_same && !running.has_planned_change() && !running.has_pending_upgrade() {
        return Err(Error::SamePlan { plan: plan.id.clone() });
    }
    if !is_same {
        currency::refuse_other(&running, &plan.id, &PlanTerms::of(&billing.admin.catalogue, plan))?;
    }
    if is_larger(billing, &running, plan) {
        refuse_buyer(billing, account).await?;
    }
    let valid_until = (now + VALID_S).min(running.period_end()).max(now);
    let begins_now = !is_same && begins_now(billing, &running, plan, when)?;
    prices::refuse_other(billing, plan, interval)?;
    interval::refuse_change(billing, account, &running, plan, interval, begins_now).await?;
    let mut preview = Preview {
        plan: plan.id.clone(),
        interval,
        amount_due_cents: 0,
        currency: running.currency().to_owned(),
        effective_at: instant(if begins_now || is_same {
            now
        } else {
            running.period_end()
        }),
        proration_date: begins_now.then_some(instant(now)),
        computed_at: instant(now),
        valid_until: instant(valid_until),
    };
    if begins_now {
        owed::refuse(billing, &running.subscription).await?;
        let prices = prices::of_plan(billing, plan, interval).await?;
        refuse_too_often(billing, account, &running, &prices, now).await?;
        let invoice = previewed::invoice(billing, &running, &prices, ends_trial(&running, plan), now).await?;
        previewed::store(&billing.admin.db, account, &prices, &invoice, now, valid_until).await?;
        (preview.amount_due_cents, preview.currency) = (invoice.amount_due, invoice.currency);
    }
    Ok(preview)
}
