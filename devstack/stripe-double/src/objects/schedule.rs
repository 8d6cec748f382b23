//! A subscription schedule and its phases.

use serde_json::{Value, json};

use crate::objects::metadata::Metadata;
use crate::objects::prorate::Prorate;

#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    pub id: String,
    pub customer: String,
    pub test_clock: Option<String>,
    /// None after it is released or has ended.
    pub subscription: Option<String>,
    pub status: Status,
    /// In order. Each phase starts when the one before it ends.
    pub phases: Vec<Phase>,
    /// The index of the current phase.
    pub current: usize,
    pub cancels_at_end: bool,
    pub metadata: Metadata,
    pub created: i64,
    pub canceled_at: Option<i64>,
    pub completed_at: Option<i64>,
    /// When it was released, and the subscription that continues without it.
    pub released: Option<(i64, String)>,
}

#[derive(Clone, Debug)]
pub(crate) struct Phase {
    pub start: i64,
    pub end: i64,
    pub items: Vec<PhaseItem>,
    /// The subscription's.
    pub currency: String,
    pub prorate: Prorate,
    pub metadata: Metadata,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PhaseItem {
    pub price: String,
    pub quantity: Option<i64>,
    pub metadata: Metadata,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Active,
    Canceled,
    Completed,
    Released,
}

impl Schedule {
    /// When the current phase ends, if there is one.
    pub(crate) fn phase_end(&self) -> Option<i64> {
        self.phases
            .get(self.current)
            .filter(|_| self.status == Status::Active)
            .map(|phase| phase.end)
    }

    pub(crate) fn render(&self) -> Value {
        let (released_at, released) = self.released.clone().unzip();
        let current = self.phases.get(self.current).filter(|_| self.status == Status::Active);
        let current = current.map(|phase| json!({ "end_date": phase.end, "start_date": phase.start }));
        json!({
            "id": self.id, "object": "subscription_schedule", "application": null,
            "billing_mode": { "flexible": { "proration_discounts": "included" }, "type": "flexible" },
            "canceled_at": self.canceled_at, "completed_at": self.completed_at, "created": self.created,
            "current_phase": current, "customer": self.customer,
            "default_settings": { "application_fee_percent": null, "billing_cycle_anchor": "automatic",
                "billing_thresholds": null, "collection_method": "charge_automatically", "default_payment_method": null,
                "description": null, "invoice_settings": { "issuer": { "type": "self" } }, "on_behalf_of": null,
                "transfer_data": null },
            "end_behavior": if self.cancels_at_end { "cancel" } else { "release" }, "livemode": false,
            "metadata": self.metadata, "phases": self.phases.iter().map(Phase::render).collect::<Vec<_>>(),
            "released_at": released_at, "released_subscription": released, "status": self.status.name(),
            "subscription": self.subscription, "test_clock": self.test_clock,
        })
    }
}

impl Phase {
    pub(crate) fn render(&self) -> Value {
        let item = |item: &PhaseItem| {
            json!({ "billing_thresholds": null, "discounts": [], "metadata": item.metadata, "plan": item.price,
                "price": item.price, "quantity": item.quantity, "tax_rates": [] })
        };
        let prorate = match self.prorate {
            Prorate::AlwaysInvoice => "always_invoice",
            Prorate::Create => "create_prorations",
            Prorate::None => "none",
        };
        json!({
            "add_invoice_items": [], "application_fee_percent": null, "billing_cycle_anchor": null,
            "billing_thresholds": null, "collection_method": null, "currency": self.currency, "default_payment_method": null,
            "default_tax_rates": [], "description": null, "discounts": [], "end_date": self.end, "invoice_settings": null,
            "items": self.items.iter().map(item).collect::<Vec<_>>(), "metadata": self.metadata, "on_behalf_of": null,
            "proration_behavior": prorate, "start_date": self.start, "transfer_data": null, "trial_end": null,
        })
    }
}

impl Status {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Canceled => "canceled",
            Self::Completed => "completed",
            Self::Released => "released",
        }
    }
}
