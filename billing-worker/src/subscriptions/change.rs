//! Changes of a running subscription: another plan, cancelling it, and undoing either.
//!
//! A larger plan begins at once and is prorated, unless the next period is requested. A smaller plan begins with the next period.
//! A cancellation also takes effect with the next period, unless an immediate one is requested. Each change is decided from
//! Stripe's current state, made, and read back, while the account's lease is held. A change that undoes something first is
//! [armed](super::armed).

use schema::{AccountId, Interval, Plan, PlanTerms, period::instant, subscription::SubscriptionStatus};
use stripe_billing::subscription::{
    CancelSubscription, UpdateSubscription, UpdateSubscriptionItems, UpdateSubscriptionPaymentBehavior,
    UpdateSubscriptionProrationBehavior, UpdateSubscriptionTrialEnd,
};
use uuid::Uuid;

use super::{
    armed::Armed,
    completion::{self, Completion, Progress},
    currency,
    eligibility::refuse_buyer,
    interval,
    lease::Lease,
    owed, payment_method, pending, periods,
    planned::{Planned, Priced},
    previewed,
    prices::{self, PlanPrices},
    refresh,
    restore::Goal,
    running::Running,
    segment, slot_prices, usage,
};
use crate::{
    error::Error,
    stripe::{Write, object::Subscription},
    subscriptions::billing::Billing,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelWhen {
    PeriodEnd,
    Now,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeWhen {
    /// A larger plan now, a smaller one with the next period.
    BySize,
    /// With the next period.
    PeriodEnd,
    /// A larger plan now, for what a preview said: its price counts from this time, in Unix seconds.
    Previewed(i64),
}

/// A plan that begins at once.
pub(super) struct Beginning<'a> {
    pub plan: &'a str,
    pub prices: &'a PlanPrices,
    /// The customer pays from now on.
    pub ends_trial: bool,
    /// The change counts from this time on; `None`: from when Stripe makes it.
    pub counts_from: Option<i64>,
}

/// Changes the plan, or how often it is paid for. `interval`: `None`: as before. A new request cancels earlier planned changes, unless
/// the new change fails.
pub async fn change_plan(
    billing: &Billing,
    account: AccountId,
    plan: &str,
    interval: Option<Interval>,
    when: ChangeWhen,
) -> Result<(), Error> {
    let billing = &billing.of(account);
    let plan = prices::for_sale(billing, plan)?;
    let lease = billing.lease(account).await?;
    complete_earlier(billing, &lease).await?;
    let running = Running::find(&billing.admin.db, billing, account).await?;
    let armed = Armed::find(billing, &lease, &running).await?;
    let interval = interval.or(running.interval()).unwrap_or_default();
    let is_same = interval::is_same(&running, plan, interval);
    if is_same && !armed.has_planned_change() && !running.has_pending_upgrade() {
        return Err(Error::SamePlan { plan: plan.id.clone() });
    }
    if !is_same {
        currency::refuse_other(&running, &plan.id, &PlanTerms::of(&billing.admin.catalogue, plan))?;
    }
    if is_larger(billing, &running, plan) {
        refuse_buyer(billing, account).await?;
    }
    let begins_now = !is_same && begins_now(billing, &running, plan, when)?;
    let prices = prices::of_plan(billing, plan, interval).await?;
    interval::refuse_change(billing, account, &running, plan, interval, begins_now).await?;
    if let ChangeWhen::Previewed(at) = when {
        if !begins_now {
            return Err(Error::PreviewExpired);
        }
        previewed::confirm(billing, account, &running, &prices, ends_trial(&running, plan), at).await?;
    }
    let done = if is_same {
        keep(billing, &armed).await
    } else if begins_now {
        let beginning = Beginning {
            plan: &plan.id,
            prices: &prices,
            ends_trial: ends_trial(&running, plan),
            counts_from: match when {
                ChangeWhen::Previewed(at) => Some(at),
                _ => None,
            },
        };
        upgrade(billing, &lease, &armed, beginning).await
    } else {
        change_next(billing, account, &armed, &prices).await
    };
    read_back(billing, lease, &running.customer, done).await
}

/// Cancels the subscription. Before it ends now, all acknowledged usage is reported, and Stripe has counted it: what comes later is
/// not on the last invoice.
pub async fn cancel(billing: &Billing, account: AccountId, when: CancelWhen) -> Result<(), Error> {
    let billing = &billing.of(account);
    let lease = billing.lease(account).await?;
    complete_earlier(billing, &lease).await?;
    let running = Running::find(&billing.admin.db, billing, account).await?;
    let done = match when {
        CancelWhen::PeriodEnd if running.subscription.cancel_at.is_some() && running.has_pending_upgrade() => {
            pending::withdraw(billing.stripe()?, &running.subscription).await
        }
        CancelWhen::PeriodEnd if running.subscription.cancel_at.is_some() => {
            return Err(Error::Conflict(
                "the subscription is already cancelled; POST /billing/resume undoes that".to_owned(),
            ));
        }
        CancelWhen::PeriodEnd => cancel_at_period_end(billing, &lease, &running).await,
        CancelWhen::Now => {
            usage::bill_ready(billing, account, &running).await?;
            // That may have taken long, and the last invoice charges the customer.
            lease.renew().await?;
            cancel_now(billing, &lease, &running).await
        }
    };
    read_back(billing, lease, &running.customer, done).await
}

/// The running plan goes on: nothing that was planned or waits for its payment replaces it.
async fn keep(billing: &Billing, armed: &Armed<'_>) -> Result<(), Error> {
    pending::withdraw(billing.stripe()?, &armed.running.subscription).await?;
    armed.take_back().await
}

/// Undoes a planned cancellation or downgrade.
pub async fn resume(billing: &Billing, account: AccountId) -> Result<(), Error> {
    let billing = &billing.of(account);
    let lease = billing.lease(account).await?;
    let running = Running::find(&billing.admin.db, billing, account).await?;
    let armed = Armed::find(billing, &lease, &running).await?;
    if !armed.has_planned_change() {
        return Err(Error::Conflict("there is no planned change to undo".to_owned()));
    }
    let done = armed.take_back().await;
    read_back(billing, lease, &running.customer, done).await
}

/// Stores Stripe's current state, also after a failed change: a part of the change may have been made.
pub(super) async fn read_back(
    billing: &Billing,
    lease: Lease,
    customer: &str,
    changed: Result<(), Error>,
) -> Result<(), Error> {
    let account = lease.account();
    let mut stored = refresh::store(billing, &lease, customer).await;
    lease.release().await;
    if let Err(Error::LeaseLost) = stored {
        // Another worker may have stored what it read before our change.
        stored = refresh::refresh(billing, account).await;
    }
    // The change's own failure says more.
    changed.and(stored.map(drop))
}

/// Completes an upgrade that has begun and lacks some of its prices.
pub(super) async fn complete_earlier(billing: &Billing, lease: &Lease) -> Result<(), Error> {
    let Some((_, earlier)) = completion::open(&billing.admin.db, lease.account()).await? else {
        return Ok(());
    };
    if earlier.settle(billing).await? == Progress::Complete {
        refresh::store(billing, lease, &earlier.customer).await?;
    }
    Ok(())
}

/// Earlier planned changes are cancelled after the larger plan is paid, so a failed payment changes nothing.
pub(super) async fn upgrade(
    billing: &Billing,
    lease: &Lease,
    armed: &Armed<'_>,
    to: Beginning<'_>,
) -> Result<(), Error> {
    let (account, running) = (lease.account(), armed.running);
    refuse_buyer(billing, account).await?;
    owed::refuse(billing, &running.subscription).await?;
    payment_method::refuse_slow(billing, &running.subscription.id).await?;
    if running.is_metered() {
        usage::report(billing, account, &running.subscription.id).await?;
    }
    // The month that runs may not be stored yet. Its usage so far has the old prices.
    if running.interval() != Some(Interval::Month) {
        refresh::store(billing, lease, &running.customer).await?;
    }
    // Usage that is admitted from now on has the new prices, once gateways know. Earlier usage keeps the old ones, whenever it arrives.
    let at = billing.clock.now_s().max(running.period_start());
    let counts_from = to.counts_from.unwrap_or(at);
    let slot = slot_of_its_own(billing, account, running, to.prices, at).await?;
    let completion = match slot {
        Some(slot) => {
            let prices = slot_prices::in_slot(billing, to.prices, slot).await?;
            Some(Completion::new(running, &prices, at, slot))
        }
        None => None,
    };
    // That may have taken long, and an upgrade charges the customer.
    lease.renew().await?;
    if let Some(completion) = &completion {
        completion.arm(lease).await?;
    }
    let goal = Goal::Now {
        plan: to.plan.to_owned(),
    };
    armed
        .make(goal, async {
            pending::withdraw(billing.stripe()?, &running.subscription).await?;
            // A schedule would undo the new prices.
            running.release_schedule(billing).await?;
            begin(billing, lease, armed, to, counts_from).await?;
            if let Some(completion) = &completion {
                completion.settle(billing).await?;
            }
            running.keep(billing).await
        })
        .await
}

/// Fails if usage prices changed too often in the period for these to begin then.
pub(super) async fn refuse_too_often(
    billing: &Billing,
    account: AccountId,
    running: &Running,
    to: &PlanPrices,
    at: i64,
) -> Result<(), Error> {
    slot_of_its_own(billing, account, running, to, at).await.map(drop)
}

/// The meters of a plan that begins then. `None`: usage costs the same as before.
async fn slot_of_its_own(
    billing: &Billing,
    account: AccountId,
    running: &Running,
    to: &PlanPrices,
    at: i64,
) -> Result<Option<i16>, Error> {
    let mut billed: Vec<i16> = running.metered().map(|item| item.price.meter_slot()).collect();
    if billed.is_empty() && to.metered.is_empty() {
        return Ok(None);
    }
    let known = periods::known(&billing.admin.db, account, &running.subscription.id).await?;
    // The running segment may bill nothing.
    let slot = known.last().map_or(0, |last| last.slot);
    // Versions of a plan may share their metered prices.
    if slot_prices::are_in(running, to, slot) {
        return Ok(None);
    }
    billed.push(slot);
    let free = segment::free_slot(&known, billed, at);
    free.map(Some).ok_or_else(|| {
        let open = known.iter().filter(|known| !known.is_final);
        let until = open.map(|known| known.bills_at).min().unwrap_or(running.period_end());
        Error::ChangedTooOften { until: instant(until) }
    })
}

/// Changes the price of the plan, and only that.
async fn begin(
    billing: &Billing,
    lease: &Lease,
    armed: &Armed<'_>,
    to: Beginning<'_>,
    counts_from: i64,
) -> Result<(), Error> {
    let running = armed.running;
    let mut item = UpdateSubscriptionItems::new();
    item.id = running.plan_item().map(|item| item.id.clone());
    // Once: an account has the limits of one plan.
    (item.price, item.quantity) = (Some(to.prices.plan.clone()), Some(1));
    // The change is made only if it is paid. Stripe can hold an unpaid change back until its invoice is paid. If the
    // subscription had a schedule, this is not used, because the schedule could not be restored while Stripe holds the change
    // back.
    let unpaid = match armed.undoes_a_plan() {
        true => UpdateSubscriptionPaymentBehavior::ErrorIfIncomplete,
        false => UpdateSubscriptionPaymentBehavior::PendingIfIncomplete,
    };
    let mut update = UpdateSubscription::new(running.subscription.id.as_str())
        .items(vec![item])
        .proration_behavior(UpdateSubscriptionProrationBehavior::AlwaysInvoice)
        .payment_behavior(unpaid);
    if !running.is_trial() {
        update = update.proration_date(counts_from);
    } else if to.ends_trial {
        update = update.trial_end(UpdateSubscriptionTrialEnd::Now);
    }
    if !armed.undoes_a_plan() {
        pending::begin(lease, billing.clock.now_s()).await?;
    }
    // An upgrade that is repeated after a lost response must not prorate twice, so it has a key.
    let key = format!(
        "upgrade-{}-{}-{}",
        running.subscription.id,
        to.prices.plan,
        Uuid::now_v7()
    );
    let updated: Subscription = match billing
        .stripe()?
        .write(&update, Write::Keyed(&key))
        .await
        .map_err(Error::from)
    {
        Ok(updated) => updated,
        Err(Error::PaymentFailed(why)) if armed.undoes_a_plan() => {
            return Err(Error::PaymentFailed(format!(
                "{why} If the bank asks the customer to confirm the payment, undo the planned change first: POST \
                 /billing/resume"
            )));
        }
        Err(failure) => return Err(failure),
    };
    if updated.pending_update.is_none() {
        return Ok(());
    }
    // If the payment failed, the caller's refresh voids the invoice.
    match pending::to_confirm(billing.stripe()?, &updated).await? {
        None => Err(Error::PaymentFailed(
            "nothing changed, and its invoice is voided: use another payment method (POST /billing/portal-session), then try again"
                .to_owned(),
        )),
        Some(invoice) => Err(Error::PaymentActionRequired {
            invoice: Box::new(invoice),
            also: match armed.has_planned_change() {
                true => "; the subscription still ends as planned: POST /billing/resume undoes that",
                false => "",
            },
        }),
    }
}

/// The plan begins with the next period.
pub(super) async fn change_next(
    billing: &Billing,
    account: AccountId,
    armed: &Armed<'_>,
    prices: &PlanPrices,
) -> Result<(), Error> {
    let running = armed.running;
    let added = match slot_of_its_own(billing, account, running, prices, running.period_end()).await? {
        Some(slot) => slot_prices::in_slot(billing, prices, slot).await?.metered,
        None => Vec::new(),
    };
    // The usage of the running plan is billed when the next one has begun.
    let running_metered = running.metered().map(|item| &item.price.id);
    let metered = added.iter().map(|(_, price)| price).chain(running_metered);
    let metered = metered.map(|price| (price.clone(), None));
    let next: Vec<Priced> = std::iter::once((prices.plan.clone(), Some(1))).chain(metered).collect();
    let goal = Goal::Planned(Planned::plan(next.clone()));
    armed
        .make(goal, async {
            pending::withdraw(billing.stripe()?, &running.subscription).await?;
            // Stripe allows one schedule at a time, and none together with a cancellation.
            running.take_back(billing).await?;
            running.plan_next(billing, account, &next).await
        })
        .await
}

async fn cancel_at_period_end(billing: &Billing, lease: &Lease, running: &Running) -> Result<(), Error> {
    let at = running.period_end();
    let goal = Goal::Planned(Planned::End { at, with_period: true });
    let armed = Armed::find(billing, lease, running).await?;
    armed
        .make(goal, async {
            pending::withdraw(billing.stripe()?, &running.subscription).await?;
            running.release_schedule(billing).await?;
            running.plan_end(billing, at, true).await
        })
        .await
}

async fn cancel_now(billing: &Billing, lease: &Lease, running: &Running) -> Result<(), Error> {
    let armed = Armed::find(billing, lease, running).await?;
    armed
        .make(Goal::End, async {
            pending::withdraw(billing.stripe()?, &running.subscription).await?;
            running.release_schedule(billing).await?;
            // With an invoice for the usage so far. Without one, that usage would never be billed.
            let cancel = CancelSubscription::new(running.subscription.id.as_str())
                .invoice_now(true)
                .prorate(false);
            billing
                .stripe()?
                .write::<Subscription>(&cancel, Write::Settable)
                .await?;
            Ok(())
        })
        .await
}

/// Whether the plan begins at once, and not with the next period.
pub(super) fn begins_now(billing: &Billing, running: &Running, to: &Plan, when: ChangeWhen) -> Result<bool, Error> {
    // A trial costs nothing yet: any other plan begins at once.
    let is_trial = running.status() == Some(SubscriptionStatus::Trialing);
    if when == ChangeWhen::PeriodEnd {
        return match is_trial {
            true => Err(Error::Conflict(
                "during a trial another plan begins at once: leave out `when`".to_owned(),
            )),
            false => Ok(false),
        };
    }
    Ok(is_trial || is_larger(billing, running, to))
}

pub(super) fn is_larger(billing: &Billing, running: &Running, to: &Plan) -> bool {
    let catalogue = &billing.admin.catalogue;
    let from = running.plan().and_then(|plan| catalogue.position(plan));
    from < catalogue.position(&to.id)
}

/// A plan without a trial is paid from its first day, so it ends a running trial. With a plan that has a trial, the running
/// trial continues.
pub(super) fn ends_trial(running: &Running, to: &Plan) -> bool {
    running.status() == Some(SubscriptionStatus::Trialing) && to.trial_days == 0
}
