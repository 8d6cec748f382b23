//! What takes an invoice back after it is final.

use std::collections::HashMap;

use serde::Deserialize;

use super::Reference;

#[derive(Clone, Debug, Deserialize)]
pub struct CreditNote {
    pub id: String,
    pub customer: Reference,
    pub invoice: Reference,
    pub number: String,
    /// `issued` or `void`.
    pub status: String,
    pub currency: String,
    /// Tax included, in the currency's smallest unit.
    pub total: i64,
    /// Of its lines, before discounts and tax.
    pub subtotal: Option<i64>,
    /// What it returns of a paid invoice.
    #[serde(default)]
    pub post_payment_amount: i64,
    pub reason: Option<String>,
    #[serde(default)]
    pub metadata: HashMap<String, String>,
    pub created: i64,
}

/// A change of the balance that pays a customer's next invoice. A negative amount is a credit for the customer.
#[derive(Clone, Debug, Deserialize)]
pub struct BalanceTransaction {
    pub id: String,
    /// Such as `credit_note`, `applied_to_invoice` or `adjustment`.
    #[serde(rename = "type")]
    pub kind: String,
    pub amount: i64,
    pub credit_note: Option<Reference>,
    pub created: i64,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Refund {
    pub id: String,
    pub customer: Option<Reference>,
    pub payment_intent: Option<Reference>,
    /// `pending`, `requires_action`, `succeeded`, `failed` or `canceled`.
    pub status: Option<String>,
    pub currency: String,
    pub amount: i64,
    pub reason: Option<String>,
    pub created: i64,
}

/// A customer's bank takes a payment back.
#[derive(Clone, Debug, Deserialize)]
pub struct Dispute {
    pub id: String,
    /// Expanded.
    pub charge: Charge,
    pub payment_intent: Option<Reference>,
    /// Such as `needs_response`, `under_review`, `won` or `lost`.
    pub status: String,
    pub currency: String,
    pub amount: i64,
    pub reason: String,
    pub created: i64,
    pub evidence_details: EvidenceDetails,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Charge {
    pub customer: Option<Reference>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct EvidenceDetails {
    /// Until then it can be answered.
    pub due_by: Option<i64>,
}

/// Which payment an invoice has.
#[derive(Clone, Debug, Deserialize)]
pub struct InvoicePayment {
    pub invoice: Reference,
}
