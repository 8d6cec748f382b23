//! Finds, changes and renders subscriptions.

use serde_json::{Value, json};

use crate::failure::Failure;
use crate::objects::event;
use crate::objects::item::Item;
use crate::objects::subscription::{SetupIntent, Subscription};
use crate::state::State;
use crate::{calendar, list};

impl Subscription {
    pub(crate) fn render(&self, state: &State) -> Value {
        let item = |item: &Item| state.prices.get(&item.price).map(|price| item.render(&self.id, price));
        let items: Vec<_> = self.items.iter().filter_map(item).collect();
        let pending_update = self.pending_update.as_ref().map(|pending| {
            let items: Vec<_> = pending.items.iter().filter_map(item).collect();
            json!({ "billing_cycle_anchor": null, "expires_at": pending.expires_at, "subscription_items": items,
                "trial_end": pending.trial_end, "trial_from_plan": null })
        });
        let is_running = |id: &&String| {
            state
                .discounts
                .get(id)
                .is_some_and(|discount| discount.is_running(state.now()))
        };
        let discounts: Vec<_> = self.discounts.iter().filter(is_running).collect();
        let pause_collection = self.pause_collection.as_ref();
        let status_details = self.paused.map(|(since, why)| {
            json!({ "paused": { "subscription": { "type": why }, "transitioned_at": since, "type": "subscription" } })
        });
        let setup_intent = self.pending_setup(state).map(|intent| &intent.id);
        let mut object = json!({
            "id": self.id, "object": "subscription", "application": null, "application_fee_percent": null,
            "automatic_tax": { "disabled_reason": null, "enabled": self.automatic_tax, "liability": null },
            "billing_cycle_anchor": self.anchor, "billing_cycle_anchor_config": null,
            "billing_mode": { "flexible": { "proration_discounts": "included" }, "type": "flexible" },
            "billing_schedules": [], "billing_thresholds": null, "cancel_at": self.cancel_at,
            "cancel_at_period_end": self.cancel_at_period_end, "canceled_at": self.canceled_at,
            "cancellation_details": { "comment": self.cancellation.comment, "feedback": self.cancellation.feedback,
                "reason": self.cancellation.reason },
            "collection_method": "charge_automatically", "created": self.created, "currency": self.currency,
            "customer": self.customer, "days_until_due": null, "default_payment_method": self.default_payment_method, "default_source": null,
            "default_tax_rates": [], "description": self.description, "discounts": discounts, "ended_at": self.ended_at,
            "invoice_settings": { "account_tax_ids": null, "issuer": { "type": "self" } },
            "items": list::whole(&format!("/v1/subscription_items?subscription={}", self.id), items),
            "latest_invoice": self.latest_invoice, "livemode": false, "metadata": self.metadata,
            "next_pending_invoice_item_invoice": null, "on_behalf_of": null,
            "pause_collection": pause_collection.map(|p| json!({ "behavior": p.behavior, "resumes_at": p.resumes_at })),
            "payment_settings": { "payment_method_options": null, "payment_method_types": null,
                "save_default_payment_method": "off" },
            "pending_invoice_item_interval": null, "pending_setup_intent": setup_intent, "pending_update": pending_update,
            "schedule": self.schedule, "start_date": self.created, "status": self.status.name(), "test_clock": state.test_clock_of(&self.customer),
            "transfer_data": null, "trial_end": self.trial_end, "trial_start": self.trial_start,
            "trial_settings": { "end_behavior": { "missing_payment_method": self.without_card.name() } },
        });
        if let Some(details) = status_details {
            object["status_details"] = details;
        }
        object
    }

    /// The setup intent, until the customer has a card.
    pub(crate) fn pending_setup(&self, state: &State) -> Option<&SetupIntent> {
        let customer = state.customers.get(&self.customer)?;
        self.setup_intent.as_ref().filter(|_| customer.card.is_none())
    }

    /// Starts the periods of these items at `at`.
    pub(crate) fn open_periods(state: &State, items: &mut [Item], anchor: i64, at: i64) {
        for item in items {
            let recurring = state.prices.get(&item.price).and_then(|price| price.recurring.as_ref());
            let Some(recurring) = recurring else { continue };
            item.period_start = at;
            item.period_end = calendar::period_end(anchor, recurring.interval, recurring.count, at);
        }
    }
}

impl State {
    pub(crate) fn subscription(&self, id: &str) -> Result<&Subscription, Failure> {
        self.subscriptions
            .get(id)
            .ok_or_else(|| Failure::not_found("subscription", id))
    }

    pub(crate) fn render_subscription(&self, id: &str) -> Value {
        self.subscriptions
            .get(id)
            .map(|subscription| subscription.render(self))
            .unwrap_or_default()
    }

    /// Changes a subscription and emits `event`, unless no visible field has changed.
    pub(crate) fn change_subscription(&mut self, id: &str, event: &str, change: impl FnOnce(&mut Subscription)) {
        let before = self.render_subscription(id);
        let Some(subscription) = self.subscriptions.get_mut(id) else {
            return;
        };
        change(subscription);
        self.emit_subscription_event(id, event, &before);
    }

    pub(crate) fn emit_subscription_event(&mut self, id: &str, event: &str, before: &Value) {
        let after = self.render_subscription(id);
        if let Some(previous) = event::changed(before, &after) {
            // The event of a deletion has no previous attributes.
            let previous = Some(previous).filter(|_| event != "customer.subscription.deleted");
            self.emit(event, after, previous);
        }
    }
}
