//! Changes a subscription in the middle of a period: what it costs, and when it takes effect.

use crate::billing::invoicing::{self, Finalize};
use crate::billing::payment::PATIENCE_S;
use crate::billing::payment_behavior::Behavior;
use crate::billing::{charges, phases, write_off};
use crate::failure::Failure;
use crate::objects::coupon;
use crate::objects::invoice::Line;
use crate::objects::item::Item;
use crate::objects::prorate::Prorate;
use crate::objects::subscription::{PendingUpdate, Status, Subscription};
use crate::options::Charge;
use crate::state::State;

#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub items: Vec<Item>,
    pub behavior: Behavior,
    pub prorate: Prorate,
    pub at: i64,
    /// A new period begins now.
    pub reset_anchor: bool,
    pub trial_end: Option<i64>,
}

/// Applies a change. `next` is the subscription with all changes that cost nothing.
pub(crate) fn apply(
    state: &mut State,
    current: &Subscription,
    mut next: Subscription,
    change: Change,
) -> Result<(), Failure> {
    let plan = plan(state, current, &change)?;
    let charge = charges::charge(state, current, plan.due_now(state, current));
    if matches!(charge, Charge::Declined | Charge::NeedsAction) {
        match change.behavior {
            Behavior::Refuse if charge == Charge::NeedsAction => return Err(Failure::subscription_needs_action()),
            Behavior::Refuse => return Err(Failure::declined()),
            Behavior::Postpone => return wait_for_payment(state, current, plan, change.trial_end),
            Behavior::Try | Behavior::Wait => {}
        }
    }
    let now = state.now();
    (next.items, next.anchor) = (plan.items, plan.anchor);
    if let Some(end) = change.trial_end {
        (next.trial_end, next.trial_end_announced) = (Some(end), false);
        next.status = if end > now { Status::Trialing } else { Status::Active };
    }
    if next.cancel_at_period_end {
        next.cancel_at = next.last_period_end();
    }
    let superseded = next.pending_update.take_if(|_| plan.changes);
    if let Some(superseded) = superseded {
        write_off::void(state, &superseded.invoice);
    }
    if !plan.immediate {
        for line in plan.lines {
            state.add_invoice_item(&current.customer, &current.currency, line, now);
        }
        replace(state, next);
        return Ok(());
    }
    let invoice = invoice(state, current, plan.lines);
    next.latest_invoice = invoice.clone().or(next.latest_invoice);
    replace(state, next);
    if let Some(invoice) = invoice {
        let waits = change.behavior == Behavior::Wait;
        let finalize = if waits { Finalize::NowUnpaid } else { Finalize::Now };
        if invoicing::issue(state, &invoice, finalize).is_err() && waits {
            state.change_subscription(&current.id, "customer.subscription.updated", |subscription| {
                subscription.status = Status::PastDue;
            });
        }
    }
    Ok(())
}

fn replace(state: &mut State, next: Subscription) {
    phases::follow(state, &next);
    let id = next.id.clone();
    state.change_subscription(&id, "customer.subscription.updated", |row| *row = next);
}

/// The effects of a change, computed before it is applied.
pub(crate) struct Plan {
    pub items: Vec<Item>,
    pub anchor: i64,
    pub lines: Vec<Line>,
    /// The lines are invoiced now, not with the next invoice.
    pub immediate: bool,
    changes: bool,
}

impl Plan {
    /// The total of an invoice made now, before the customer's balance is applied.
    fn due_now(&self, state: &State, subscription: &Subscription) -> i64 {
        if !self.immediate {
            return 0;
        }
        let pending = state.pending_items(&subscription.customer, Some(&subscription.id));
        let pending = pending
            .iter()
            .filter_map(|id| state.invoice_items.get(id))
            .map(|item| item.line.amount);
        let amount = self.lines.iter().map(|line| line.amount).chain(pending).sum();
        let running = state.running_discounts(&subscription.id, state.now());
        let running = running.iter().filter_map(|id| state.discounts.get(id));
        let offs: Vec<_> = running.map(|discount| discount.off.clone()).collect();
        let tax = state.settings.tax_basis_points.filter(|_| subscription.automatic_tax);
        let (discount, tax) = coupon::discount_and_tax(amount, &offs, tax);
        amount - discount + tax
    }
}

pub(crate) fn plan(state: &mut State, current: &Subscription, change: &Change) -> Result<Plan, Failure> {
    let now = state.now();
    let (mut items, mut anchor) = (change.items.clone(), current.anchor);
    let same = |a: &Item, b: &Item| a.id == b.id && a.price == b.price && a.quantity == b.quantity;
    let kept = |item: &Item| current.items.iter().any(|other| same(item, other));
    let changes = items.len() != current.items.len() || !items.iter().all(kept);
    let (start, end) = current.period();
    if change.at < start || change.at > now {
        let message = "`proration_date` must be in the present period and not in the future.";
        return Err(Failure::invalid(message).param("proration_date"));
    }
    if let Some(trial_end) = change.trial_end {
        return trial(state, current, items, trial_end);
    }
    if current.status == Status::Trialing {
        // A trial is free, whatever its items are, and its end does not move.
        items
            .iter_mut()
            .for_each(|item| (item.period_start, item.period_end) = (start, end));
        return Ok(Plan {
            items,
            anchor,
            lines: Vec::new(),
            immediate: false,
            changes,
        });
    }
    let reset = change.reset_anchor || other_interval(state, &current.items, &items);
    let lines;
    if reset {
        anchor = now;
        Subscription::open_periods(state, &mut items, now, now);
        lines = match change.prorate {
            Prorate::None => {
                // There is no credit, but the period ends, so its usage is billed.
                let metered = charges::usage(state, current, &current.items, now);
                let used = metered
                    .iter()
                    .flat_map(|metered| metered.lines(state))
                    .collect::<Vec<_>>();
                [used, charges::charges(state, current, &items)].concat()
            }
            _ => charges::prorations(state, current, &items, change.at, Some(&items)),
        };
    } else {
        for item in items.iter_mut().filter(|item| item.period_end == 0) {
            Subscription::open_periods(state, std::slice::from_mut(item), anchor, now);
            item.period_start = start;
        }
        lines = match change.prorate {
            Prorate::None => Vec::new(),
            _ => charges::prorations(state, current, &items, change.at, None),
        };
    }
    let billable = matches!(current.status, Status::Active | Status::PastDue);
    let lines = if billable { lines } else { Vec::new() };
    let immediate = changes && change.prorate == Prorate::AlwaysInvoice || reset;
    Ok(Plan {
        items,
        anchor,
        lines,
        immediate,
        changes,
    })
}

/// A trial that ends now starts a period with an invoice. A trial that ends later starts a trial or moves its end.
fn trial(state: &mut State, current: &Subscription, mut items: Vec<Item>, end: i64) -> Result<Plan, Failure> {
    let now = state.now();
    if end <= now {
        Subscription::open_periods(state, &mut items, now, now);
        let lines = charges::charges(state, current, &items);
        return Ok(Plan {
            items,
            anchor: now,
            lines,
            immediate: true,
            changes: true,
        });
    }
    if current.status != Status::Trialing {
        return Err(Failure::gap("a trial for a subscription that is no longer on trial"));
    }
    items
        .iter_mut()
        .for_each(|item| (item.period_start, item.period_end) = (current.period().0, end));
    Ok(Plan {
        items,
        anchor: end,
        lines: Vec::new(),
        immediate: false,
        changes: true,
    })
}

/// Creates the invoice. The change is applied when the invoice is paid.
fn wait_for_payment(
    state: &mut State,
    current: &Subscription,
    plan: Plan,
    trial_end: Option<i64>,
) -> Result<(), Failure> {
    // It does not outlive the period or trial.
    let patience = state.now() + PATIENCE_S;
    let expires_at = current.next_renewal().map_or(patience, |end| end.min(patience));
    let superseded = current.pending_update.as_ref().map(|pending| pending.invoice.clone());
    if let Some(superseded) = superseded {
        write_off::void(state, &superseded);
    }
    let Some(invoice) = invoice(state, current, plan.lines) else {
        return Ok(());
    };
    let pending = PendingUpdate {
        items: plan.items,
        anchor: plan.anchor,
        trial_end,
        invoice: invoice.clone(),
        expires_at,
    };
    state.change_subscription(&current.id, "customer.subscription.updated", |subscription| {
        subscription.latest_invoice = Some(invoice.clone());
        subscription.pending_update = Some(pending);
    });
    invoicing::issue(state, &invoice, Finalize::Now).unwrap_or_default(); // unpaid, as was known before
    Ok(())
}

fn invoice(state: &mut State, current: &Subscription, lines: Vec<Line>) -> Option<String> {
    let period = (current.period().0, state.now());
    invoicing::invoice(state, &current.id, "subscription_update", period, lines, Vec::new())
}

pub(crate) fn other_interval(state: &State, old: &[Item], new: &[Item]) -> bool {
    let interval = |item: &Item| {
        let recurring = state.prices.get(&item.price)?.recurring.as_ref()?;
        Some((recurring.interval.name(), recurring.count))
    };
    let old: Vec<_> = old.iter().map(interval).collect();
    !new.iter().map(interval).all(|interval| old.contains(&interval))
}
