//! Strict mode: calls whose effect at Stripe is not certain are violations. The double does what the documentation lets expect;
//! a billing service should not depend on it.
//!
//! 1. A metered item that may have unbilled usage is not removed and gets no other price.
//! 2. A call with `pending_if_incomplete` neither adds nor removes items, and leaves metered items alone.
//! 3. A call that adds, removes or changes a metered item does not use `proration_behavior=none`.

use crate::billing::charges;
use crate::billing::payment_behavior::Behavior;
use crate::objects::invoice::Status;
use crate::objects::item::Item;
use crate::objects::prorate::Prorate;
use crate::objects::schedule::Phase;
use crate::objects::subscription::Subscription;
use crate::state::State;

/// Checks a change of a subscription's items.
pub(crate) fn check_items(
    state: &mut State,
    current: &Subscription,
    items: &[Item],
    behavior: Behavior,
    prorate: Prorate,
) {
    if !state.is_strict {
        return;
    }
    let is_metered = |item: &Item| charges::is_metered(state, item);
    let after = |item: &Item| items.iter().find(|other| other.id == item.id);
    let changes = |item: &&Item| after(item).is_none_or(|other| other.price != item.price);
    let touched: Vec<_> = current
        .items
        .iter()
        .filter(|item| is_metered(item))
        .filter(changes)
        .collect();
    let added: Vec<_> = items
        .iter()
        .filter(|item| !current.items.iter().any(|other| other.id == item.id))
        .collect();
    let removes = current.items.iter().any(|item| after(item).is_none());
    let mut uncertain = Vec::new();
    if let Some(item) = touched
        .iter()
        .find(|item| may_have_unbilled_usage(state, current, item))
    {
        uncertain.push(format!("the metered item {} may have unbilled usage", item.id));
    }
    if behavior == Behavior::Postpone && (removes || !added.is_empty() || !touched.is_empty()) {
        uncertain.push("pending_if_incomplete with more than another price of licensed items".to_owned());
    }
    if prorate == Prorate::None && (!touched.is_empty() || added.iter().any(|item| is_metered(item))) {
        uncertain.push("proration_behavior=none with a change of metered items".to_owned());
    }
    for what in uncertain {
        state.violation(format!("uncertain at Stripe, change of {}: {what}", current.id));
    }
}

/// Checks the phases of a schedule: each keeps the metered items of the one before.
pub(crate) fn check_phases(state: &mut State, schedule: &str, phases: &[Phase]) {
    if !state.is_strict {
        return;
    }
    let metered = |phase: &Phase| {
        let prices = phase.items.iter().map(|item| item.price.clone());
        let is_metered = |price: &String| state.prices.get(price).is_some_and(|price| price.is_metered());
        prices.filter(is_metered).collect::<Vec<_>>()
    };
    let mut uncertain = Vec::new();
    for (before, after) in phases.iter().zip(phases.iter().skip(1)) {
        let (old, new) = (metered(before), metered(after));
        if let Some(price) = old.iter().find(|price| !new.contains(price)) {
            uncertain.push(format!("a phase drops the metered price {price}"));
        }
        let differs = old.len() != new.len() || old.iter().any(|price| !new.contains(price));
        if after.prorate == Prorate::None && differs {
            uncertain.push("a phase with proration_behavior=none changes metered items".to_owned());
        }
    }
    for what in uncertain {
        state.violation(format!("uncertain at Stripe, {schedule}: {what}"));
    }
}

/// Usage in the running period, or a draft that still counts.
fn may_have_unbilled_usage(state: &State, subscription: &Subscription, item: &Item) -> bool {
    let drafts = state.invoices.iter().map(|(_, invoice)| invoice);
    let mut drafts = drafts.filter(|invoice| invoice.status == Status::Draft);
    let meter = state.prices.get(&item.price).and_then(|price| price.meter());
    let meter = meter.and_then(|meter| state.meters.get(meter));
    let units = meter.map_or(0, |meter| {
        let counted = (subscription.customer.clone(), meter.event_name.clone());
        let from = item.period_start.max(item.usage_from);
        state.usage.total(&counted, from, state.now() + 1)
    });
    units != 0 || drafts.any(|invoice| invoice.metered.iter().any(|metered| metered.item == item.id))
}
