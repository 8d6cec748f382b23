//! Finds and renders charges. Each payment that succeeded has one. Its id follows from that of the payment.

use serde_json::{Value, json};

use crate::objects::dispute::{self, Dispute};
use crate::objects::invoice::Invoice;
use crate::objects::payment::{Payment, Status};
use crate::objects::refund::Refund;
use crate::state::State;

impl Payment {
    /// `None`: nothing was paid.
    pub(crate) fn charge(&self) -> Option<String> {
        let suffix = self.id.strip_prefix("pi_")?;
        (self.status == Status::Succeeded).then(|| format!("ch_{suffix}"))
    }
}

impl State {
    /// The invoice that a charge, or the charge of a payment, has paid.
    pub(crate) fn charged_by(&self, charge_or_payment: &str) -> Option<(&Invoice, &Payment, String)> {
        self.invoices.iter().find_map(|(_, invoice)| {
            let payment = invoice.payment.as_ref()?;
            let charge = payment.charge()?;
            (charge == charge_or_payment || payment.id == charge_or_payment).then_some((invoice, payment, charge))
        })
    }

    pub(crate) fn refunds_of(&self, charge: &str) -> impl Iterator<Item = &Refund> {
        let refunds = self.refunds.iter().map(|(_, refund)| refund);
        refunds.filter(move |refund| refund.charge == charge)
    }

    pub(crate) fn dispute_of(&self, charge: &str) -> Option<&Dispute> {
        let mut disputes = self.disputes.iter().map(|(_, dispute)| dispute);
        disputes.find(|dispute| dispute.charge == charge)
    }

    pub(crate) fn render_charge(&self, id: &str) -> Option<Value> {
        let (invoice, payment, charge) = self.charged_by(id)?;
        let refunded: i64 = self.refunds_of(&charge).map(|refund| refund.amount).sum();
        let lost = self
            .dispute_of(&charge)
            .is_some_and(|one| one.status == dispute::Status::Lost);
        Some(json!({
            "id": charge, "object": "charge", "amount": invoice.amount_paid, "amount_captured": invoice.amount_paid,
            "amount_refunded": refunded,
            "billing_details": { "address": null, "email": null, "name": null, "phone": null, "tax_id": null },
            "captured": true, "created": invoice.paid_at, "currency": invoice.currency, "customer": invoice.customer,
            "description": null, "disputed": self.dispute_of(&charge).is_some(), "failure_code": null,
            "failure_message": null, "livemode": false, "metadata": {}, "paid": true, "payment_intent": payment.id,
            "receipt_url": null, "refunded": lost || refunded == invoice.amount_paid, "status": "succeeded",
        }))
    }
}
