//! What an invoice charges: licensed items in advance, usage afterwards, and prorations in between.

use crate::calendar;
use crate::money::{CHARGE_MIN, share};
use crate::objects::invoice::{Line, Metered};
use crate::objects::item::Item;
use crate::objects::metadata::Metadata;
use crate::objects::subscription::Subscription;
use crate::options::{Card, Charge};
use crate::state::State;

/// The charges for licensed items for their current period.
pub(crate) fn charges(state: &mut State, subscription: &Subscription, items: &[Item]) -> Vec<Line> {
    let mut lines = Vec::new();
    for item in items {
        let Some(price) = state.prices.get(&item.price).filter(|price| !price.is_metered()) else {
            continue;
        };
        let name = state
            .products
            .get(&price.product)
            .map_or("", |product| product.name.as_str())
            .to_owned();
        let costs = price.costs(&subscription.currency, item.quantity.unwrap_or(1));
        for cost in costs {
            let description = format!("{} × {name}", cost.quantity);
            let id = state.ids.next("il");
            let mut line = line(
                subscription,
                item,
                id,
                description,
                (item.period_start, item.period_end),
            );
            (line.amount, line.quantity, line.unit) = (cost.amount, Some(cost.quantity), cost.unit);
            lines.push(line);
        }
    }
    lines
}

/// The usage of metered items up to `to`.
pub(crate) fn usage(state: &State, subscription: &Subscription, items: &[Item], to: i64) -> Vec<Metered> {
    let metered = items.iter().filter(|item| is_metered(state, item));
    metered.map(|item| Metered::of(subscription, item, to)).collect()
}

/// The cost of a change at `at`. Licensed items get a credit for the rest of the period and a new charge for it; metered items
/// whose price changes are billed for their usage so far. `reset` has the items of a period that begins now and ends all others.
pub(crate) fn prorations(
    state: &mut State,
    subscription: &Subscription,
    new: &[Item],
    at: i64,
    reset: Option<&[Item]>,
) -> Vec<Line> {
    let mut lines = Vec::new();
    let old = subscription.items.clone();
    let same = |a: &Item, b: &Item| a.id == b.id && a.price == b.price && a.quantity == b.quantity;
    for item in &old {
        let kept = new.iter().any(|other| same(item, other));
        if is_metered(state, item) {
            if !kept || reset.is_some() {
                // Bill up to now, even with an earlier `proration_date`: later usage belongs to the new price or period.
                lines.extend(Metered::of(subscription, item, state.now()).lines(state));
            }
        } else if !kept || reset.is_some() {
            lines.extend(part(state, subscription, item, at, Part::Credit));
        }
    }
    match reset {
        Some(items) => lines.extend(charges(state, subscription, items)),
        None => {
            for item in new.iter().filter(|item| !old.iter().any(|other| same(item, other))) {
                lines.extend(part(state, subscription, item, at, Part::Charge));
            }
        }
    }
    lines
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Credit,
    Charge,
}

/// The rest of the item's period from `at`, as one line.
pub(crate) fn part(state: &mut State, subscription: &Subscription, item: &Item, at: i64, part: Part) -> Option<Line> {
    let price = state.prices.get(&item.price).filter(|price| !price.is_metered())?;
    let (rest, whole) = (item.period_end - at, item.period_end - item.period_start);
    if rest <= 0 {
        return None;
    }
    let quantity = item.quantity.unwrap_or(1);
    let full = price
        .costs(&subscription.currency, quantity)
        .iter()
        .map(|cost| cost.amount)
        .sum();
    let name = state
        .products
        .get(&price.product)
        .map_or("", |product| product.name.as_str());
    let (verb, sign) = if part == Part::Credit {
        ("Unused", -1)
    } else {
        ("Remaining", 1)
    };
    let description = format!("{verb} time on {quantity} × {name} after {}", calendar::show(at));
    let id = state.ids.next("il");
    let mut line = line(subscription, item, id, description, (at, item.period_end));
    (line.amount, line.quantity, line.proration) = (sign * share(full, rest.min(whole), whole), Some(quantity), true);
    Some(line)
}

/// What would happen if the subscription's card were charged `amount`, after the balance.
pub(crate) fn charge(state: &State, subscription: &Subscription, amount: i64) -> Charge {
    let customer = state.customers.get(&subscription.customer);
    let due = amount.saturating_add(customer.map_or(0, |customer| customer.balance));
    // Less than the minimum waits on the balance.
    if due < CHARGE_MIN {
        return Charge::Succeeds;
    }
    state.paying_card(subscription).map_or(Charge::Declined, Card::charge)
}

pub(crate) fn is_metered(state: &State, item: &Item) -> bool {
    state.prices.get(&item.price).is_some_and(|price| price.is_metered())
}

pub(crate) fn line(
    subscription: &Subscription,
    item: &Item,
    id: String,
    description: String,
    period: (i64, i64),
) -> Line {
    Line {
        id,
        amount: 0,
        quantity: None,
        description,
        price: Some(item.price.clone()),
        unit: None,
        period,
        proration: false,
        subscription: Some(subscription.id.clone()),
        item: Some(item.id.clone()),
        invoice_item: None,
        metadata: Metadata::new(),
    }
}
