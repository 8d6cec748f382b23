//! Starts subscriptions.

use crate::billing::charges;
use crate::billing::invoicing::{self, Finalize};
use crate::billing::payment::PATIENCE_S;
use crate::billing::payment_behavior::Behavior;
use crate::failure::Failure;
use crate::objects::coupon::{self, Redeemed};
use crate::objects::item::Item;
use crate::objects::metadata::Metadata;
use crate::objects::subscription::{Cancellation, SetupIntent, Status, Subscription, WithoutCard};
use crate::options::Charge;
use crate::state::State;

/// The values of a new subscription.
pub(crate) struct New {
    pub customer: String,
    pub items: Vec<Item>,
    /// All items are sold in it.
    pub currency: String,
    pub trial_end: Option<i64>,
    pub without_card: WithoutCard,
    pub metadata: Metadata,
    pub description: Option<String>,
    pub behavior: Behavior,
    pub discounts: Vec<Redeemed>,
    pub automatic_tax: bool,
}

/// Starts a subscription with its first invoice. It is `incomplete` until that invoice is paid.
pub(crate) fn start(state: &mut State, new: New) -> Result<String, Failure> {
    let (now, id) = (state.now(), state.ids.next("sub"));
    let trial_end = new.trial_end.filter(|end| *end > now);
    state.check_currency(&new.customer, &new.currency)?;
    let mut subscription = Subscription {
        id: id.clone(),
        customer: new.customer,
        status: Status::Incomplete,
        items: new.items,
        anchor: trial_end.unwrap_or(now),
        created: now,
        currency: new.currency,
        description: new.description,
        metadata: new.metadata,
        cancel_at: None,
        cancel_at_period_end: false,
        canceled_at: None,
        ended_at: None,
        cancellation: Cancellation::default(),
        trial_start: trial_end.map(|_| now),
        trial_end,
        without_card: new.without_card,
        discounts: Vec::new(),
        automatic_tax: new.automatic_tax,
        latest_invoice: None,
        setup_intent: None,
        schedule: None,
        pending_update: None,
        default_payment_method: None,
        pause_collection: None,
        paused: None,
        expires_at: None,
        trial_end_announced: false,
        renewal_announced: None,
    };
    match trial_end {
        Some(end) => subscription
            .items
            .iter_mut()
            .for_each(|item| (item.period_start, item.period_end) = (now, end)),
        None => Subscription::open_periods(state, &mut subscription.items, now, now),
    }
    let mut lines = charges::charges(state, &subscription, &subscription.items);
    if trial_end.is_some() {
        for line in &mut lines {
            (line.amount, line.unit) = (0, None);
            line.description = format!("Trial period for {}", line.description);
        }
    }
    let total = lines.iter().map(|line| line.amount).sum();
    let tax = state.settings.tax_basis_points.filter(|_| new.automatic_tax);
    let offs = state.offs(&new.discounts);
    let (discount, tax) = coupon::discount_and_tax(total, &offs, tax);
    let total = total - discount + tax;
    let charge = charges::charge(state, &subscription, total);
    let pays = matches!(charge, Charge::Succeeds | Charge::TakesDays);
    let has_card = state
        .customers
        .get(&subscription.customer)
        .is_some_and(|customer| customer.card.is_some());
    match new.behavior {
        Behavior::Refuse if charge == Charge::NeedsAction => return Err(Failure::subscription_needs_action()),
        Behavior::Refuse if !pays => return Err(Failure::declined()),
        Behavior::Try if !pays && !has_card => {
            return Err(Failure::no_payment_method());
        }
        _ => {}
    }
    if trial_end.is_some() && !has_card && new.behavior == Behavior::Wait {
        let intent = state.ids.next("seti");
        let client_secret = format!("{intent}_secret_{}", state.ids.text(24));
        subscription.setup_intent = Some(SetupIntent {
            id: intent,
            client_secret,
        });
    }
    let customer = subscription.customer.clone();
    state.bind_currency(&customer, &subscription.currency);
    state.subscriptions.insert(&id, subscription);
    let discounts = state.redeem(&new.discounts, &customer, &id);
    if let Some(subscription) = state.subscriptions.get_mut(&id) {
        subscription.discounts = discounts;
    }
    let invoice = invoicing::invoice(state, &id, "subscription_create", (now, now), lines, Vec::new());
    let due = invoice
        .as_deref()
        .and_then(|id| state.invoices.get(id))
        .map_or(0, |invoice| invoice.amount_due(state));
    if let Some(subscription) = state.subscriptions.get_mut(&id) {
        subscription.latest_invoice.clone_from(&invoice);
        match (due, trial_end) {
            (0, Some(_)) => subscription.status = Status::Trialing,
            (0, None) => subscription.status = Status::Active,
            _ => subscription.expires_at = Some(now + PATIENCE_S),
        }
    }
    let object = state.render_subscription(&id);
    state.emit("customer.subscription.created", object, None);
    if let Some(invoice) = invoice {
        let finalize = if new.behavior == Behavior::Wait {
            Finalize::NowUnpaid
        } else {
            Finalize::Now
        };
        invoicing::issue(state, &invoice, finalize).unwrap_or_default(); // incomplete, then: the answer shows it
    }
    Ok(id)
}
