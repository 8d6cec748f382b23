//! A refund: money of a paid invoice that goes back to the customer.

use serde_json::{Value, json};

use crate::objects::metadata::Metadata;

#[derive(Clone, Debug)]
pub(crate) struct Refund {
    pub id: String,
    pub charge: String,
    pub payment_intent: String,
    pub customer: String,
    pub amount: i64,
    pub currency: String,
    pub reason: Option<String>,
    pub metadata: Metadata,
    pub created: i64,
}

impl Refund {
    pub(crate) fn render(&self) -> Value {
        json!({
            "id": self.id, "object": "refund", "amount": self.amount, "balance_transaction": null, "charge": self.charge,
            "created": self.created, "currency": self.currency, "customer": self.customer, "metadata": self.metadata,
            "payment_intent": self.payment_intent, "reason": self.reason, "receipt_number": null,
            "source_transfer_reversal": null, "status": "succeeded", "transfer_reversal": null,
        })
    }
}
