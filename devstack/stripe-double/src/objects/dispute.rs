//! A dispute: the customer's bank takes a payment back, unless the operator's evidence convinces it.

use serde_json::{Value, json};

/// How long the operator can answer.
pub(crate) const ANSWER_S: i64 = 14 * 86_400;

#[derive(Clone, Debug)]
pub(crate) struct Dispute {
    pub id: String,
    pub charge: String,
    pub payment_intent: String,
    pub amount: i64,
    pub currency: String,
    pub status: Status,
    pub created: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    NeedsResponse,
    Won,
    Lost,
}

impl Dispute {
    pub(crate) fn render(&self) -> Value {
        let status = match self.status {
            Status::NeedsResponse => "needs_response",
            Status::Won => "won",
            Status::Lost => "lost",
        };
        json!({
            "id": self.id, "object": "dispute", "amount": self.amount, "balance_transactions": [], "charge": self.charge,
            "created": self.created, "currency": self.currency, "enhanced_eligibility_types": [],
            "evidence": { "enhanced_evidence": {} },
            "evidence_details": { "due_by": self.created + ANSWER_S, "enhanced_eligibility": {}, "has_evidence": false,
                "past_due": false, "submission_count": 0 },
            "is_charge_refundable": false, "livemode": false, "metadata": {}, "payment_intent": self.payment_intent,
            "reason": "fraudulent", "status": status,
        })
    }
}
