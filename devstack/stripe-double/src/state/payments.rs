//! Finds, changes and renders the payments of invoices.

use serde_json::{Value, json};

use crate::failure::Failure;
use crate::objects::invoice::Invoice;
use crate::objects::payment::{Payment, Refused, Status};
use crate::state::State;

impl Payment {
    pub(crate) fn render(&self, invoice: &Invoice, due: i64, payment_method: Option<&str>) -> Value {
        let paid = self.status == Status::Succeeded;
        let method = payment_method.filter(|_| self.status != Status::RequiresPaymentMethod);
        let action = json!({ "type": "use_stripe_sdk", "use_stripe_sdk": { "type": "three_d_secure_redirect" } });
        let canceled = (self.status == Status::Canceled).then_some(invoice.voided_at).flatten();
        json!({
            "id": self.id, "object": "payment_intent", "amount": due, "amount_capturable": 0,
            "amount_received": if paid { due } else { 0 }, "application": null, "application_fee_amount": null,
            "automatic_payment_methods": null, "canceled_at": canceled,
            "cancellation_reason": canceled.map(|_| "void_invoice"), "capture_method": "automatic",
            "client_secret": self.client_secret, "confirmation_method": "automatic",
            "created": invoice.finalized_at.unwrap_or(invoice.created), "currency": invoice.currency,
            "customer": invoice.customer, "description": null, "last_payment_error": self.refused.map(Refused::render),
            "latest_charge": self.charge(), "livemode": false, "metadata": {},
            "next_action": if self.status == Status::RequiresAction { action } else { Value::Null },
            "on_behalf_of": null, "payment_method": method, "payment_method_types": ["card", "us_bank_account"],
            "processing": null, "receipt_email": null, "review": null, "setup_future_usage": "off_session",
            "shipping": null, "source": null, "statement_descriptor": null, "statement_descriptor_suffix": null,
            "status": self.status.name(), "transfer_data": null, "transfer_group": null,
        })
    }
}

impl State {
    /// `GET /v1/payment_intents/<id>`
    pub(crate) fn render_payment(&self, id: &str) -> Result<Value, Failure> {
        let paid_by = |invoice: &&Invoice| invoice.payment.as_ref().is_some_and(|payment| payment.id == id);
        let mut invoices = self.invoices.iter().map(|(_, invoice)| invoice);
        let invoice = invoices.find(paid_by);
        invoice
            .and_then(|invoice| self.render_payment_of(invoice))
            .ok_or_else(|| Failure::not_found("payment_intent", id))
    }

    fn render_payment_of(&self, invoice: &Invoice) -> Option<Value> {
        let payment = invoice.payment.as_ref()?;
        let customer = self.customers.get(&invoice.customer);
        let method = customer.and_then(|customer| customer.payment_method.as_deref());
        Some(payment.render(invoice, invoice.amount_due(self), method))
    }

    pub(crate) fn new_payment(&mut self, has_method: bool) -> Payment {
        let id = self.ids.next("pi");
        let client_secret = format!("{id}_secret_{}", self.ids.text(24));
        Payment {
            id,
            client_secret,
            // Whether a payment that nobody attempted is not rather `requires_payment_method` at Stripe is not certain.
            status: if has_method {
                Status::RequiresConfirmation
            } else {
                Status::RequiresPaymentMethod
            },
            settles_at: None,
            bounces: false,
            refused: None,
        }
    }

    pub(crate) fn change_payment(&mut self, invoice: &str, change: impl FnOnce(&mut Payment)) {
        let payment = self
            .invoices
            .get_mut(invoice)
            .and_then(|invoice| invoice.payment.as_mut());
        if let Some(payment) = payment {
            change(payment);
        }
    }

    /// Emits an event of the invoice's payment, such as `payment_intent.processing`.
    pub(crate) fn emit_payment(&mut self, invoice: &str, event: &str) {
        let object = self
            .invoices
            .get(invoice)
            .and_then(|invoice| self.render_payment_of(invoice));
        if let Some(object) = object {
            self.emit(event, object, None);
        }
    }
}
