//! Reads a credit note, a refund or a dispute in Stripe, and the invoice that it is for.

use serde_json::json;

use super::reversal::{Named, Reversal, ReversalKind};
use crate::stripe::{
    Raw, Stripe, StripeError,
    object::{
        List, Reference,
        reversal::{Dispute, InvoicePayment, Refund},
    },
};

/// `None`: Stripe has none with this id.
pub(super) async fn fetch(stripe: &Stripe, named: &Named) -> Result<Option<Reversal>, StripeError> {
    match read(stripe, named).await {
        Ok(read) => Ok(Some(read)),
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(error),
    }
}

async fn read(stripe: &Stripe, Named { kind, id }: &Named) -> Result<Reversal, StripeError> {
    match kind {
        ReversalKind::CreditNote => {
            let note = stripe.read(&Raw::get(format!("/credit_notes/{id}"), json!({}))).await?;
            Ok(Reversal::of_credit_note(note))
        }
        ReversalKind::Refund => {
            let refund: Refund = stripe.read(&Raw::get(format!("/refunds/{id}"), json!({}))).await?;
            let invoice = invoice(stripe, refund.payment_intent.as_ref()).await?;
            Ok(Reversal::of_refund(refund, invoice))
        }
        ReversalKind::Dispute => {
            let expand = json!({ "expand": ["charge"] });
            let dispute: Dispute = stripe.read(&Raw::get(format!("/disputes/{id}"), expand)).await?;
            let invoice = invoice(stripe, dispute.payment_intent.as_ref()).await?;
            Ok(Reversal::of_dispute(dispute, invoice))
        }
    }
}

/// The invoice that a payment was for.
async fn invoice(stripe: &Stripe, payment: Option<&Reference>) -> Result<Option<String>, StripeError> {
    let Some(payment) = payment else { return Ok(None) };
    let query = json!({ "payment": { "type": "payment_intent", "payment_intent": payment.id() }, "limit": 1 });
    let paid: List<InvoicePayment> = stripe.read(&Raw::get("/invoice_payments", query)).await?;
    Ok(paid.data.first().map(|paid| paid.invoice.id().to_owned()))
}
