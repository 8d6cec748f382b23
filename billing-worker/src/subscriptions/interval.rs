//! Changes between monthly and yearly payments. They begin with a period, and only where no units are billed: Stripe bills the units of
//! a month with the month, and the billing worker charges those of a year.

use schema::{AccountId, Interval, Mode, Plan};

use super::{billing::Billing, current, running::Running};
use crate::error::Error;

/// Whether the subscription has this plan, paid for like this.
pub(super) fn is_same(running: &Running, plan: &Plan, interval: Interval) -> bool {
    running.plan() == Some(plan.id.as_str()) && running.interval() == Some(interval)
}

/// Fails if the change of the interval is not possible. The same interval always is.
pub(super) async fn refuse_change(
    billing: &Billing,
    account: AccountId,
    running: &Running,
    to: &Plan,
    interval: Interval,
    begins_now: bool,
) -> Result<(), Error> {
    if running.interval() == Some(interval) {
        return Ok(());
    }
    let why = if running.is_trial() {
        "it is in its trial: cancel it, and subscribe again"
    } else if bills_units(billing, account, to).await? {
        "a plan bills units: cancel the subscription with the end of its period (POST /billing/cancel), and subscribe again from then on"
    } else if begins_now {
        "the change can only begin with the next period: send \"when\": \"period_end\""
    } else {
        return Ok(());
    };
    Err(Error::IntervalChangeRefused {
        from: running
            .interval()
            .map_or_else(|| "other interval".to_owned(), |from| from.to_string()),
        to: interval,
        why,
    })
}

/// Whether the version that the account has, or the plan, bills units.
async fn bills_units(billing: &Billing, account: AccountId, to: &Plan) -> Result<bool, Error> {
    let (catalogue, now) = (&billing.admin.catalogue, billing.clock.now_s());
    let current = current::plan(&billing.admin.db, account, now).await?;
    let mut usage_types = catalogue.usage_types().iter();
    let is_billed = usage_types.any(|usage_type| catalogue.terms_of(&current, *usage_type).mode != Mode::Limited);
    Ok(is_billed || catalogue.billed(to).next().is_some())
}
