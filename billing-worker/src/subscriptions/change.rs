//! Changes of a running subscription: another plan, its end, and taking either back.
//!
//! A larger plan begins at once and is prorated; a smaller one begins with the next period; so does the end, unless it is asked
//! for now. Each change is decided on what Stripe says at that moment, done, and read back, under the subscription's lock.

use std::collections::HashMap;

use schema::{AccountId, Plan, standing::SubscriptionStatus};
use serde::Serialize;
use stripe_billing::{
    invoice::{
        CreatePreviewInvoice, CreatePreviewInvoiceSubscriptionDetails, CreatePreviewInvoiceSubscriptionDetailsItems,
        CreatePreviewInvoiceSubscriptionDetailsProrationBehavior,
    },
    subscription::{
        CancelSubscription, UpdateSubscription, UpdateSubscriptionItems, UpdateSubscriptionPaymentBehavior,
        UpdateSubscriptionProrationBehavior,
    },
    subscription_schedule::{
        CreateSubscriptionSchedule, ReleaseSubscriptionSchedule, UpdateSubscriptionSchedule,
        UpdateSubscriptionSchedulePhases, UpdateSubscriptionSchedulePhasesEndDate,
        UpdateSubscriptionSchedulePhasesItems, UpdateSubscriptionSchedulePhasesStartDate,
    },
};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    prices::{self, PlanPrices},
    refresh,
    running::Running,
};
use crate::{
    billing::Billing,
    error::Error,
    stripe::{
        StripeError, Write,
        object::{Invoice, Schedule, Subscription},
    },
    subscriptions::mirror::plan_of,
};

/// What a change of plan costs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Preview {
    pub plan: String,
    /// Due at once, in the currency's smallest unit: the new plan for the rest of the period, less what was paid of the old
    /// one. 0: the change begins with the next period.
    pub amount_due_cents: i64,
    pub currency: String,
    #[serde(with = "time::serde::rfc3339")]
    pub effective_at: OffsetDateTime,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelWhen {
    PeriodEnd,
    Now,
}

/// What changing to `plan` would cost; changes nothing.
pub async fn preview(billing: &Billing, account: AccountId, plan: &str) -> Result<Preview, Error> {
    let plan = prices::for_sale(billing, plan)?;
    let running = Running::find(billing, account).await?;
    let now = billing.clock.now_s();
    if running.plan() == Some(plan.id.as_str()) {
        return Err(Error::SamePlan { plan: plan.id.clone() });
    }
    if !is_upgrade(billing, &running, plan) {
        return Ok(Preview {
            plan: plan.id.clone(),
            amount_due_cents: 0,
            currency: running.currency().to_owned(),
            effective_at: schema::period::instant(running.period_end()),
        });
    }
    let prices = prices::of_plan(billing, plan).await?;
    let mut details = CreatePreviewInvoiceSubscriptionDetails::new();
    details.items = Some(
        swaps(&running.subscription, &prices)
            .into_iter()
            .map(|swap| {
                let mut item = CreatePreviewInvoiceSubscriptionDetailsItems::new();
                (item.id, item.price) = (swap.item, swap.price);
                item.deleted = swap.deleted.then_some(true);
                item
            })
            .collect(),
    );
    details.proration_behavior = Some(CreatePreviewInvoiceSubscriptionDetailsProrationBehavior::AlwaysInvoice);
    let request = CreatePreviewInvoice::new()
        .customer(running.customer.clone())
        .subscription(running.subscription.id.clone())
        .subscription_details(details);
    let invoice: Invoice = billing.stripe()?.write(&request, Write::Settable).await?;
    Ok(Preview {
        plan: plan.id.clone(),
        amount_due_cents: invoice.amount_due,
        currency: invoice.currency,
        effective_at: schema::period::instant(now),
    })
}

/// Changes the plan: a larger one now, a smaller one at the end of the period.
pub async fn change_plan(billing: &Billing, account: AccountId, plan: &str) -> Result<(), Error> {
    let plan = prices::for_sale(billing, plan)?;
    let _turn = billing.turn().await?;
    let mut tx = billing.admin.db.begin().await?;
    crate::accounts::lock_subscription(&mut tx, account).await?;
    let running = Running::find_locked(&mut tx, billing, account).await?;
    let is_pending = running.schedule.is_some() || running.subscription.cancel_at.is_some();
    if running.plan() == Some(plan.id.as_str()) && !is_pending {
        return Err(Error::SamePlan { plan: plan.id.clone() });
    }
    let prices = prices::of_plan(billing, plan).await?;
    // What was planned before is taken back first: the latest wish is the one that counts.
    running.take_back(billing).await?;
    if running.plan() == Some(plan.id.as_str()) {
        // Nothing else was asked for.
    } else if is_upgrade(billing, &running, plan) {
        upgrade(billing, &running, &prices).await?;
    } else {
        downgrade(billing, account, &running, &prices).await?;
    }
    let changed = refresh::store(&mut tx, billing, account, &running.customer).await?;
    tx.commit().await?;
    refresh::tell(billing, account, changed).await;
    Ok(())
}

/// Ends the subscription. If it is to end now, Stripe is told of all usage first: what comes later is not billed.
pub async fn cancel(billing: &Billing, account: AccountId, when: CancelWhen) -> Result<(), Error> {
    let _turn = billing.turn().await?;
    let mut tx = billing.admin.db.begin().await?;
    crate::accounts::lock_subscription(&mut tx, account).await?;
    let running = Running::find_locked(&mut tx, billing, account).await?;
    let stripe = billing.stripe()?;
    if when == CancelWhen::Now {
        billing.flush(account).await?;
    }
    match when {
        CancelWhen::PeriodEnd if running.subscription.cancel_at.is_some() => {
            return Err(Error::Conflict(
                "the subscription is cancelled already; POST /billing/resume takes it back".to_owned(),
            ));
        }
        CancelWhen::PeriodEnd => {
            running.release_schedule(billing).await?;
            let update = UpdateSubscription::new(running.subscription.id.as_str()).cancel_at_period_end(true);
            stripe.write::<Subscription>(&update, Write::Settable).await?;
        }
        CancelWhen::Now => {
            running.release_schedule(billing).await?;
            // With an invoice for what was used: without one it would never be billed.
            let cancel = CancelSubscription::new(running.subscription.id.as_str())
                .invoice_now(true)
                .prorate(false);
            match stripe.write::<Subscription>(&cancel, Write::Settable).await {
                Ok(_) => {}
                // Done by an attempt whose answer was lost: what is read back tells.
                Err(StripeError::Refused(_)) if !running.is_live_still(billing).await? => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    let changed = refresh::store(&mut tx, billing, account, &running.customer).await?;
    tx.commit().await?;
    refresh::tell(billing, account, changed).await;
    Ok(())
}

/// Takes back a cancellation or a smaller plan that has not begun.
pub async fn resume(billing: &Billing, account: AccountId) -> Result<(), Error> {
    let _turn = billing.turn().await?;
    let mut tx = billing.admin.db.begin().await?;
    crate::accounts::lock_subscription(&mut tx, account).await?;
    let running = Running::find_locked(&mut tx, billing, account).await?;
    if running.schedule.is_none() && running.subscription.cancel_at.is_none() {
        return Err(Error::Conflict(
            "nothing is planned that could be taken back".to_owned(),
        ));
    }
    running.take_back(billing).await?;
    let changed = refresh::store(&mut tx, billing, account, &running.customer).await?;
    tx.commit().await?;
    refresh::tell(billing, account, changed).await;
    Ok(())
}

async fn upgrade(billing: &Billing, running: &Running, prices: &PlanPrices) -> Result<(), Error> {
    let items: Vec<UpdateSubscriptionItems> = swaps(&running.subscription, prices)
        .into_iter()
        .map(|swap| {
            let mut item = UpdateSubscriptionItems::new();
            (item.id, item.price) = (swap.item, swap.price);
            item.deleted = swap.deleted.then_some(true);
            item
        })
        .collect();
    // Paid at once or not done: Stripe holds the change back until the payment succeeds.
    let update = UpdateSubscription::new(running.subscription.id.as_str())
        .items(items)
        .proration_behavior(UpdateSubscriptionProrationBehavior::AlwaysInvoice)
        .payment_behavior(UpdateSubscriptionPaymentBehavior::PendingIfIncomplete);
    // Its own key: repeated after an answer that was lost, it must not prorate twice.
    let key = format!("upgrade-{}-{}-{}", running.subscription.id, prices.plan, Uuid::now_v7());
    let updated: Subscription = billing.stripe()?.write(&update, Write::Keyed(&key)).await?;
    if updated.pending_update.is_some() {
        return Err(Error::PaymentFailed(
            "the larger plan begins once its invoice is paid: see POST /billing/portal-session".to_owned(),
        ));
    }
    Ok(())
}

/// By a schedule of two phases: the running one to its end, then the smaller plan, without an end.
async fn downgrade(billing: &Billing, account: AccountId, running: &Running, prices: &PlanPrices) -> Result<(), Error> {
    let stripe = billing.stripe()?;
    let create = CreateSubscriptionSchedule::new().from_subscription(running.subscription.id.clone());
    let key = format!("schedule-{account}-{}", Uuid::now_v7());
    let schedule: Schedule = stripe.write(&create, Write::Keyed(&key)).await?;
    let phase_item = |price: &str, is_metered: bool| {
        let mut item = UpdateSubscriptionSchedulePhasesItems::new();
        item.price = Some(price.to_owned());
        item.quantity = (!is_metered).then_some(1);
        item
    };
    let now_items = running.subscription.items.data.iter();
    let now_items: Vec<_> = now_items
        .map(|item| phase_item(&item.price.id, item.price.is_metered()))
        .collect();
    let next_items = std::iter::once(phase_item(&prices.plan, false))
        .chain(prices.metered.iter().map(|(_, price)| phase_item(price, true)))
        .collect::<Vec<_>>();
    let mut running_phase = UpdateSubscriptionSchedulePhases::new(now_items);
    let start = schedule
        .phases
        .first()
        .map_or(running.period_start(), |phase| phase.start_date);
    running_phase.start_date = Some(UpdateSubscriptionSchedulePhasesStartDate::Timestamp(start));
    running_phase.end_date = Some(UpdateSubscriptionSchedulePhasesEndDate::Timestamp(running.period_end()));
    let mut next_phase = UpdateSubscriptionSchedulePhases::new(next_items);
    next_phase.start_date = Some(UpdateSubscriptionSchedulePhasesStartDate::Timestamp(
        running.period_end(),
    ));
    next_phase.proration_behavior =
        Some(stripe_billing::subscription_schedule::UpdateSubscriptionSchedulePhasesProrationBehavior::None);
    let update = UpdateSubscriptionSchedule::new(schedule.id.as_str())
        .phases(vec![running_phase, next_phase])
        .end_behavior(stripe_billing::SubscriptionScheduleEndBehavior::Release);
    let planned = stripe.write::<serde_json::Value>(&update, Write::Settable).await;
    if let Err(error) = planned {
        // A schedule without a second phase changes nothing, and would be in the way of the next try.
        let release = ReleaseSubscriptionSchedule::new(schedule.id.as_str());
        stripe.write::<serde_json::Value>(&release, Write::Settable).await.ok();
        return Err(error.into());
    }
    Ok(())
}

/// One item of a changed subscription.
pub(super) struct Swap {
    /// `None`: a new one.
    pub item: Option<String>,
    pub price: Option<String>,
    deleted: bool,
}

/// The plan's item gets the new price; each metered one that of its usage type, or goes. Usage is a meter's, not an item's, and
/// so goes on.
pub(super) fn swaps(subscription: &Subscription, prices: &PlanPrices) -> Vec<Swap> {
    let mut metered: HashMap<&str, &str> = prices
        .metered
        .iter()
        .map(|(usage_type, price)| (usage_type.as_str(), price.as_str()))
        .collect();
    let mut swaps = Vec::new();
    for item in &subscription.items.data {
        let id = Some(item.id.clone());
        let usage_type = item.price.metadata.get(crate::stripe::names::META_USAGE_TYPE);
        let price = match usage_type {
            None if plan_of(&item.price).is_some() => Some(prices.plan.as_str()),
            None => continue,
            Some(usage_type) => metered.remove(usage_type.as_str()),
        };
        swaps.push(Swap {
            item: id,
            deleted: price.is_none(),
            price: price.map(str::to_owned),
        });
    }
    let new = prices
        .metered
        .iter()
        .filter(|(usage_type, _)| metered.contains_key(usage_type.as_str()));
    swaps.extend(new.map(|(_, price)| Swap {
        item: None,
        price: Some(price.clone()),
        deleted: false,
    }));
    swaps
}

fn is_upgrade(billing: &Billing, running: &Running, to: &Plan) -> bool {
    let catalogue = &billing.admin.catalogue;
    let from = running.plan().and_then(|plan| catalogue.position(plan));
    // A trial costs nothing yet: whatever follows begins at once.
    from < catalogue.position(&to.id) || running.status() == Some(SubscriptionStatus::Trialing)
}
