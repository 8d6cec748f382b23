//! A subscription and its items as the double keeps and shows them.

use serde_json::{Value, json};

use super::calendar;
use super::events;
use super::failure::Failure;
use super::prices::Price;
use super::state::{Metadata, State};
use super::table;

#[derive(Clone, Debug)]
pub(super) struct Subscription {
    pub id: String,
    pub customer: String,
    pub status: Status,
    pub items: Vec<Item>,
    /// Periods count from here.
    pub anchor: i64,
    pub created: i64,
    pub currency: String,
    pub description: Option<String>,
    pub metadata: Metadata,
    pub cancel_at: Option<i64>,
    pub cancel_at_period_end: bool,
    pub canceled_at: Option<i64>,
    pub ended_at: Option<i64>,
    pub cancellation: Cancellation,
    pub trial_start: Option<i64>,
    pub trial_end: Option<i64>,
    pub without_card: WithoutCard,
    pub latest_invoice: Option<String>,
    /// What a form keeps a card with, for the end of a trial.
    pub setup_intent: Option<SetupIntent>,
    pub schedule: Option<String>,
    pub pending_update: Option<PendingUpdate>,
    pub pause_collection: Option<PauseCollection>,
    /// (since, why)
    pub paused: Option<(i64, &'static str)>,
    /// When an `incomplete` one expires.
    pub expires_at: Option<i64>,
    /// `trial_will_end` was sent.
    pub told_of_trial_end: bool,
    /// The period end for which `invoice.upcoming` was sent.
    pub told_of_renewal: Option<i64>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Item {
    pub id: String,
    pub price: String,
    pub quantity: Option<i64>,
    pub created: i64,
    pub metadata: Metadata,
    pub period_start: i64,
    pub period_end: i64,
    /// Metered usage before this was billed with an earlier price, or never will be.
    pub usage_from: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Incomplete,
    IncompleteExpired,
    Trialing,
    Active,
    PastDue,
    Unpaid,
    Paused,
    Canceled,
}

/// What to do when a trial ends and there is no card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WithoutCard {
    CreateInvoice,
    Cancel,
    Pause,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Cancellation {
    pub reason: Option<&'static str>,
    pub comment: Option<String>,
    pub feedback: Option<String>,
}

#[derive(Clone, Debug)]
pub(super) struct SetupIntent {
    pub id: String,
    pub client_secret: String,
}

/// A change that waits for its invoice to be paid.
#[derive(Clone, Debug)]
pub(super) struct PendingUpdate {
    pub items: Vec<Item>,
    pub anchor: i64,
    pub trial_end: Option<i64>,
    pub invoice: String,
    pub expires_at: i64,
}

#[derive(Clone, Debug)]
pub(super) struct PauseCollection {
    pub behavior: String,
    pub resumes_at: Option<i64>,
}

impl Status {
    pub fn name(self) -> &'static str {
        match self {
            Self::Incomplete => "incomplete",
            Self::IncompleteExpired => "incomplete_expired",
            Self::Trialing => "trialing",
            Self::Active => "active",
            Self::PastDue => "past_due",
            Self::Unpaid => "unpaid",
            Self::Paused => "paused",
            Self::Canceled => "canceled",
        }
    }

    pub fn has_ended(self) -> bool {
        matches!(self, Self::Canceled | Self::IncompleteExpired)
    }

    /// Whether its periods roll.
    pub fn renews(self) -> bool {
        matches!(self, Self::Trialing | Self::Active | Self::PastDue | Self::Unpaid)
    }
}

impl Item {
    pub fn render(&self, subscription: &str, price: &Price) -> Value {
        json!({
            "id": self.id, "object": "subscription_item", "billing_thresholds": null, "created": self.created,
            "current_period_end": self.period_end, "current_period_start": self.period_start, "discounts": [],
            "metadata": self.metadata, "plan": price.render_plan(), "price": price.render(), "quantity": self.quantity,
            "subscription": subscription, "tax_rates": [],
        })
    }
}

impl Subscription {
    /// The first end of a period of an item; `None` without items.
    pub fn next_renewal(&self) -> Option<i64> {
        self.items.iter().map(|item| item.period_end).min()
    }

    /// The last one: where a subscription ends that was canceled for the end of its period.
    pub fn last_period_end(&self) -> Option<i64> {
        self.items.iter().map(|item| item.period_end).max()
    }

    pub fn period(&self) -> (i64, i64) {
        let start = self
            .items
            .iter()
            .map(|item| item.period_start)
            .min()
            .unwrap_or(self.created);
        (start, self.next_renewal().unwrap_or(self.created))
    }

    pub fn render(&self, state: &State) -> Value {
        let item = |item: &Item| state.prices.get(&item.price).map(|price| item.render(&self.id, price));
        let items: Vec<_> = self.items.iter().filter_map(item).collect();
        let pending_update = self.pending_update.as_ref().map(|pending| {
            let items: Vec<_> = pending.items.iter().filter_map(item).collect();
            json!({ "billing_cycle_anchor": null, "expires_at": pending.expires_at, "subscription_items": items,
                "trial_end": pending.trial_end, "trial_from_plan": null })
        });
        let pause_collection = self.pause_collection.as_ref();
        let status_details = self.paused.map(|(since, why)| {
            json!({ "paused": { "subscription": { "type": why }, "transitioned_at": since, "type": "subscription" } })
        });
        let setup_intent = self.pending_setup(state).map(|intent| &intent.id);
        let mut object = json!({
            "id": self.id, "object": "subscription", "application": null, "application_fee_percent": null,
            "automatic_tax": { "disabled_reason": null, "enabled": false, "liability": null },
            "billing_cycle_anchor": self.anchor, "billing_cycle_anchor_config": null,
            "billing_mode": { "flexible": { "proration_discounts": "included" }, "type": "flexible" },
            "billing_schedules": [], "billing_thresholds": null, "cancel_at": self.cancel_at,
            "cancel_at_period_end": self.cancel_at_period_end, "canceled_at": self.canceled_at,
            "cancellation_details": { "comment": self.cancellation.comment, "feedback": self.cancellation.feedback,
                "reason": self.cancellation.reason },
            "collection_method": "charge_automatically", "created": self.created, "currency": self.currency,
            "customer": self.customer, "days_until_due": null, "default_payment_method": null, "default_source": null,
            "default_tax_rates": [], "description": self.description, "discounts": [], "ended_at": self.ended_at,
            "invoice_settings": { "account_tax_ids": null, "issuer": { "type": "self" } },
            "items": table::whole(&format!("/v1/subscription_items?subscription={}", self.id), items),
            "latest_invoice": self.latest_invoice, "livemode": false, "metadata": self.metadata,
            "next_pending_invoice_item_invoice": null, "on_behalf_of": null,
            "pause_collection": pause_collection.map(|p| json!({ "behavior": p.behavior, "resumes_at": p.resumes_at })),
            "payment_settings": { "payment_method_options": null, "payment_method_types": null,
                "save_default_payment_method": "off" },
            "pending_invoice_item_interval": null, "pending_setup_intent": setup_intent, "pending_update": pending_update,
            "schedule": self.schedule, "start_date": self.created, "status": self.status.name(), "test_clock": null,
            "transfer_data": null, "trial_end": self.trial_end, "trial_start": self.trial_start,
            "trial_settings": { "end_behavior": { "missing_payment_method": self.without_card.name() } },
        });
        if let Some(details) = status_details {
            object["status_details"] = details;
        }
        object
    }

    /// Until the customer has a card.
    pub fn pending_setup(&self, state: &State) -> Option<&SetupIntent> {
        let customer = state.customers.get(&self.customer)?;
        self.setup_intent.as_ref().filter(|_| customer.card.is_none())
    }

    /// Opens the periods of items that have none yet, or all of them, at `at`.
    pub fn open_periods(state: &State, items: &mut [Item], anchor: i64, at: i64) {
        for item in items {
            let recurring = state.prices.get(&item.price).and_then(|price| price.recurring.as_ref());
            let Some(recurring) = recurring else { continue };
            item.period_start = at;
            item.period_end = calendar::period_end(anchor, recurring.interval, recurring.count, at);
        }
    }
}

impl SetupIntent {
    pub fn render(&self, customer: &str) -> Value {
        json!({ "id": self.id, "object": "setup_intent", "client_secret": self.client_secret, "customer": customer,
            "livemode": false, "status": "requires_payment_method", "usage": "off_session" })
    }
}

impl WithoutCard {
    fn name(self) -> &'static str {
        match self {
            Self::CreateInvoice => "create_invoice",
            Self::Cancel => "cancel",
            Self::Pause => "pause",
        }
    }
}

impl State {
    pub fn subscription(&self, id: &str) -> Result<&Subscription, Failure> {
        self.subscriptions
            .get(id)
            .ok_or_else(|| Failure::not_found("subscription", id))
    }

    pub fn render_subscription(&self, id: &str) -> Value {
        self.subscriptions
            .get(id)
            .map(|subscription| subscription.render(self))
            .unwrap_or_default()
    }

    /// Changes a subscription and tells of it: of `event`, or of nothing if nothing that shows has changed.
    pub fn change_subscription(&mut self, id: &str, event: &str, change: impl FnOnce(&mut Subscription)) {
        let before = self.render_subscription(id);
        let Some(subscription) = self.subscriptions.get_mut(id) else {
            return;
        };
        change(subscription);
        self.tell_of_subscription(id, event, &before);
    }

    pub fn tell_of_subscription(&mut self, id: &str, event: &str, before: &Value) {
        let after = self.render_subscription(id);
        if let Some(previous) = events::changed(before, &after) {
            // A deletion shows what it left, not what it changed.
            let previous = Some(previous).filter(|_| event != "customer.subscription.deleted");
            self.emit(event, after, previous);
        }
    }
}
