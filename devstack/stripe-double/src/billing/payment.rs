//! Takes an invoice from draft to paid: finalizes it, charges the card, retries, and updates the
//! subscription.

pub(crate) mod debit;

use crate::billing::ending;
use crate::failure::Failure;
use crate::money::CHARGE_MIN;
use crate::objects::balance_transaction::BalanceChange;
use crate::objects::event;
use crate::objects::invoice::Status;
use crate::objects::payment::{self, Refused};
use crate::objects::subscription::{self, Subscription};
use crate::options::{AfterDunning, Card, Charge};
use crate::state::State;

/// An unpaid first invoice, or the unpaid invoice of a pending update, expires after 23 hours.
pub(crate) const PATIENCE_S: i64 = 23 * 3_600;

/// Who charges the card. Only the first attempt and automatic attempts count for the schedule of retries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Try {
    Automatic,
    Asked,
}

/// Freezes the lines, takes the customer's balance into account and numbers the invoice.
pub(crate) fn finalize(state: &mut State, id: &str) {
    let now = state.now();
    let Some(invoice) = state
        .invoices
        .get(id)
        .filter(|invoice| invoice.status == Status::Draft)
        .cloned()
    else {
        return;
    };
    let lines = invoice.all_lines(state);
    let total = invoice.total(state);
    let Some(mut customer) = state.customers.get(&invoice.customer).cloned() else {
        return;
    };
    let asked = total.saturating_add(customer.balance).max(0);
    // Stripe does not charge less than the minimum: the invoice is paid, and the next one asks for the amount.
    let is_too_small = (1..CHARGE_MIN).contains(&asked);
    let due = if is_too_small { 0 } else { asked };
    let balances = (customer.balance, customer.balance.saturating_add(total) - due);
    let payment = (due > 0).then(|| state.new_payment(customer.card.is_some()));
    let before = customer.render();
    customer.currency.get_or_insert_with(|| invoice.currency.clone());
    let number = customer.next_invoice_number();
    if customer.deleted {
        state
            .customers
            .get_mut(&invoice.customer)
            .into_iter()
            .for_each(|row| *row = customer.clone());
    } else {
        state.replace_customer(customer, &before);
    }
    let kind = if is_too_small {
        "invoice_too_small"
    } else {
        "applied_to_invoice"
    };
    let change = BalanceChange::of_invoice(kind, balances.1 - balances.0, id);
    state.change_balance(&invoice.customer, change);
    state.change_invoice(id, |invoice| {
        (invoice.lines, invoice.metered) = (lines, Vec::new());
        (invoice.status, invoice.finalized_at) = (Status::Open, Some(now));
        (invoice.number, invoice.balances, invoice.payment) = (Some(number), Some(balances), payment);
    });
    let object = state.render_invoice(id);
    state.emit("invoice.finalized", object, None);
}

/// Settles a finalized invoice: one with nothing due is paid, otherwise the card is charged if `charge` says so.
pub(crate) fn settle(state: &mut State, id: &str, charge: Option<Try>) -> Result<(), Failure> {
    let Some(invoice) = state.invoices.get(id).filter(|invoice| invoice.status == Status::Open) else {
        return Ok(());
    };
    if invoice.amount_due(state) == 0 {
        paid(state, id);
        return Ok(());
    }
    match charge {
        Some(by) => attempt(state, id, by),
        None => Err(Failure::declined()),
    }
}

/// Charges the customer's card.
pub(crate) fn attempt(state: &mut State, id: &str, by: Try) -> Result<(), Failure> {
    let Some(invoice) = state.invoices.get(id).filter(|invoice| invoice.status == Status::Open) else {
        return Ok(());
    };
    if invoice.is_processing() {
        return Err(Failure::payment_processing());
    }
    let subscription = invoice.subscription.as_ref().and_then(|id| state.subscriptions.get(id));
    let card = match subscription {
        Some(subscription) => state.paying_card(subscription),
        None => state
            .customers
            .get(&invoice.customer)
            .and_then(|customer| customer.card),
    };
    let first = invoice.attempts == 0;
    state.change_invoice(id, |invoice| {
        invoice.attempts += usize::from(by == Try::Automatic || first)
    });
    let by = if first { Try::Automatic } else { by };
    match card.map(|card| (card.charge(), card)) {
        Some((Charge::Succeeds, _)) => paid(state, id),
        Some((Charge::TakesDays, card)) => {
            debit::begin(state, id, card);
            if state.settings.bank_debit_settles_after_s == 0 {
                debit::settle(state, id);
            }
        }
        Some((Charge::NeedsAction, _)) => return refused(state, id, by, Refused::Authentication),
        Some((Charge::Declined, _)) | None => return refused(state, id, by, Refused::Card),
    }
    Ok(())
}

/// The payment failed, or the customer must confirm it first.
pub(crate) fn refused(state: &mut State, id: &str, by: Try, why: Refused) -> Result<(), Failure> {
    let now = state.now();
    let Some(invoice) = state.invoices.get(id) else {
        return Ok(());
    };
    let failure = match why {
        Refused::Authentication => Failure::invoice_needs_action(),
        Refused::Card | Refused::BankDebit => Failure::declined(),
    };
    let subscription = invoice.subscription.clone();
    let renewal = invoice.reason != "subscription_create";
    state.change_payment(id, |payment| match why {
        Refused::Authentication => payment.status = payment::Status::RequiresAction,
        Refused::Card | Refused::BankDebit => {
            (payment.status, payment.refused) = (payment::Status::RequiresPaymentMethod, Some(why));
        }
    });
    state.emit_payment(
        id,
        match why {
            Refused::Authentication => "payment_intent.requires_action",
            Refused::Card | Refused::BankDebit => "payment_intent.payment_failed",
        },
    );
    if why == Refused::Authentication {
        let object = state.render_invoice(id);
        state.emit("invoice.payment_action_required", object, None);
    }
    let living = subscription
        .as_deref()
        .and_then(|id| state.subscriptions.get(id))
        .filter(|s| !s.status.has_ended());
    // The invoice of a pending update has its own deadline; dunning does not apply to it.
    let pending = living.is_some_and(|s| s.pending_update.as_ref().is_some_and(|pending| pending.invoice == id));
    let dunned = renewal && !pending && living.is_some();
    if by == Try::Asked {
        let object = state.render_invoice(id);
        state.emit("invoice.payment_failed", object, None);
        return Err(failure);
    }
    let attempts = state.invoices.get(id).map_or(0, |invoice| invoice.attempts);
    let days = state
        .settings
        .dunning_days
        .get(attempts.saturating_sub(1))
        .copied()
        .filter(|_| dunned);
    state.change_invoice(id, |invoice| {
        invoice.next_attempt = days.map(|days| now + days * 86_400)
    });
    let object = state.render_invoice(id);
    state.emit("invoice.payment_failed", object, None);
    if dunned && let Some(subscription) = subscription {
        failed(state, &subscription, days.is_none());
    }
    Err(failure)
}

/// The customer has paid an invoice on a page with a working card. The card is saved if the customer has none.
pub(crate) fn confirmed(state: &mut State, id: &str) {
    let payment_method = state.ids.next("pm");
    let customer = state
        .invoices
        .get(id)
        .and_then(|invoice| state.customers.get(&invoice.customer));
    if let Some(mut customer) = customer
        .filter(|customer| customer.card.is_none() && !customer.deleted)
        .cloned()
    {
        let before = customer.render();
        customer.set_card(Some(Card::Ok), payment_method);
        state.replace_customer(customer, &before);
    }
    paid(state, id);
}

/// Marks the invoice as paid and applies everything that waited for the payment.
pub(crate) fn paid(state: &mut State, id: &str) {
    let now = state.now();
    let before = state.render_invoice(id);
    let due = state.invoices.get(id).map_or(0, |invoice| invoice.amount_due(state));
    state.change_invoice(id, |invoice| {
        (invoice.status, invoice.paid_at, invoice.amount_paid) = (Status::Paid, Some(now), due);
        invoice.next_attempt = None;
    });
    state.change_payment(id, |payment| {
        (payment.status, payment.refused) = (payment::Status::Succeeded, None);
    });
    let after = state.render_invoice(id);
    let previous = event::changed(&before, &after);
    state.emit("invoice.updated", after.clone(), previous);
    state.emit("invoice.paid", after.clone(), None);
    state.emit("invoice.payment_succeeded", after, None);
    let subscription = state.invoices.get(id).and_then(|invoice| invoice.subscription.clone());
    if let Some(subscription) = subscription {
        revive(state, &subscription, id);
    }
}

/// Activates the subscription of a paid invoice and applies a pending update.
fn revive(state: &mut State, id: &str, invoice: &str) {
    let Some(subscription) = state.subscriptions.get(id) else {
        return;
    };
    let applies = subscription
        .pending_update
        .as_ref()
        .is_some_and(|pending| pending.invoice == invoice);
    let is_latest = subscription.latest_invoice.as_deref() == Some(invoice);
    if applies {
        let now = state.now();
        apply_pending(state, id, now);
        let object = state.render_subscription(id);
        state.emit("customer.subscription.pending_update_applied", object, None);
        return;
    }
    state.change_subscription(id, "customer.subscription.updated", |subscription| {
        use subscription::Status::{Active, Incomplete, PastDue, Trialing, Unpaid};
        match subscription.status {
            Incomplete => {
                subscription.expires_at = None;
                let trialing = subscription.trial_end.is_some_and(|end| end > subscription.created);
                subscription.status = if trialing { Trialing } else { Active };
            }
            PastDue | Unpaid if is_latest => subscription.status = Active,
            _ => {}
        }
    });
}

fn apply_pending(state: &mut State, id: &str, now: i64) {
    let Some(pending) = state
        .subscriptions
        .get(id)
        .and_then(|subscription| subscription.pending_update.clone())
    else {
        return;
    };
    let (mut items, reset) = (
        pending.items,
        pending.anchor != state.subscriptions.get(id).map_or(0, |s| s.anchor),
    );
    if reset {
        Subscription::open_periods(state, &mut items, pending.anchor, now);
    }
    state.change_subscription(id, "customer.subscription.updated", |subscription| {
        (subscription.items, subscription.anchor) = (items, pending.anchor);
        if let Some(end) = pending.trial_end {
            subscription.trial_end = Some(end);
            subscription.status = match end > now {
                true => subscription::Status::Trialing,
                false => subscription::Status::Active,
            };
        }
        subscription.pending_update = None;
    });
}

/// A failed payment makes a subscription past due. The last one has the effect that the settings name.
fn failed(state: &mut State, id: &str, last: bool) {
    use subscription::Status::{Active, PastDue, Trialing, Unpaid};
    let after = state.settings.after_dunning;
    if last && after == AfterDunning::Cancel {
        ending::end(state, id, "payment_failed");
        return;
    }
    state.change_subscription(id, "customer.subscription.updated", |subscription| {
        if last && after == AfterDunning::Unpaid {
            subscription.status = Unpaid;
        } else if matches!(subscription.status, Active | Trialing) {
            subscription.status = PastDue;
        }
    });
}
