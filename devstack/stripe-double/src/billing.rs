//! What makes invoices: charges in advance, usage afterwards, and prorations when a subscription changes in between.

use super::calendar;
use super::failure::Failure;
use super::invoice::{Invoice, Line, Metered};
use super::money::share;
use super::options::Card;
use super::payment::{self, Try};
use super::state::{Metadata, State};
use super::subscription::{Item, Subscription};

/// When a new invoice stops being a draft.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finalize {
    /// And is paid with the customer's card, if that works.
    Now,
    /// And waits for somebody to pay it.
    NowUnpaid,
    /// After the draft hour.
    Later,
}

/// What licensed items cost for their present period.
pub(super) fn charges(state: &mut State, subscription: &Subscription, items: &[Item]) -> Vec<Line> {
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
        let costs = price.costs(item.quantity.unwrap_or(1));
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
pub(super) fn usage(state: &State, subscription: &Subscription, items: &[Item], to: i64) -> Vec<Metered> {
    let metered = items.iter().filter(|item| is_metered(state, item));
    metered.map(|item| Metered::of(subscription, item, to)).collect()
}

/// What a change at `at` costs: for licensed items credit for the rest of the period and the new charge for it, for metered ones
/// whose price changes the usage so far. `reset`: the items in a period that begins now, which ends all old ones.
pub(super) fn prorations(
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
                // Up to now, also with an earlier `proration_date`: from now on usage counts for the new price or period.
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
pub(super) enum Part {
    Credit,
    Charge,
}

/// The rest of the item's period from `at`, as one line.
pub(super) fn part(state: &mut State, subscription: &Subscription, item: &Item, at: i64, part: Part) -> Option<Line> {
    let price = state.prices.get(&item.price).filter(|price| !price.is_metered())?;
    let (rest, whole) = (item.period_end - at, item.period_end - item.period_start);
    if rest <= 0 {
        return None;
    }
    let quantity = item.quantity.unwrap_or(1);
    let full = price.costs(quantity).iter().map(|cost| cost.amount).sum();
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

/// Makes an invoice with these lines, the usage and what is pending. `None` if there would be nothing on it.
pub(super) fn invoice(
    state: &mut State,
    subscription: &str,
    reason: &'static str,
    period: (i64, i64),
    lines: Vec<Line>,
    metered: Vec<Metered>,
) -> Option<String> {
    let customer = state.subscriptions.get(subscription)?.customer.clone();
    let pending = state.pending_items(&customer, Some(subscription));
    if lines.is_empty() && metered.is_empty() && pending.is_empty() {
        return None;
    }
    let mut invoice = Invoice::new(state, &customer, reason, period);
    invoice.currency = state.subscriptions.get(subscription)?.currency.clone();
    invoice.subscription = Some(subscription.to_owned());
    (invoice.lines, invoice.metered) = (lines, metered);
    let id = invoice.id.clone();
    invoice.lines.extend(
        pending
            .iter()
            .filter_map(|item| state.put_item_on(item, &id))
            .collect::<Vec<_>>(),
    );
    state.invoices.insert(&id, invoice);
    Some(id)
}

/// Tells of a new invoice and finalizes it now or later. Ok: there is nothing that was not paid.
pub(super) fn issue(state: &mut State, id: &str, finalize: Finalize) -> Result<(), Failure> {
    if finalize == Finalize::Later {
        let at = state.now() + state.settings.draft_for_s;
        state.change_invoice(id, |invoice| invoice.finalizes_at = Some(at));
    }
    let object = state.render_invoice(id);
    state.emit("invoice.created", object, None);
    match finalize {
        Finalize::Later => Ok(()),
        Finalize::Now | Finalize::NowUnpaid => {
            payment::finalize(state, id);
            payment::settle(state, id, (finalize == Finalize::Now).then_some(Try::Automatic))
        }
    }
}

/// Whether the customer's card would pay for `amount`, after the balance.
pub(super) fn would_pay(state: &State, customer: &str, amount: i64) -> bool {
    let customer = state.customers.get(customer);
    let due = amount.saturating_add(customer.map_or(0, |customer| customer.balance));
    due <= 0 || customer.is_some_and(|customer| customer.card == Some(Card::Ok))
}

pub(super) fn is_metered(state: &State, item: &Item) -> bool {
    state.prices.get(&item.price).is_some_and(|price| price.is_metered())
}

pub(super) fn line(
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
