use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;

use super::{List, Reference, amount::Amount};
use crate::stripe::names;

#[derive(Clone, Debug, Deserialize)]
pub struct Invoice {
    /// The id of a preview refers to no stored invoice.
    #[serde(default)]
    pub id: String,
    pub customer: Option<Reference>,
    #[serde(default)]
    pub livemode: bool,
    /// Stripe collects it by itself.
    #[serde(default)]
    pub auto_advance: bool,
    pub number: Option<String>,
    /// `draft`, `open`, `paid`, `void` or `uncollectible`; a preview has none.
    pub status: Option<String>,
    /// Why Stripe created it.
    pub billing_reason: Option<String>,
    pub currency: String,
    /// In the currency's smallest unit, as all amounts: before discounts and tax that is not included.
    #[serde(default)]
    pub subtotal: i64,
    pub total: i64,
    pub amount_due: i64,
    #[serde(default)]
    pub amount_paid: i64,
    #[serde(default)]
    pub amount_remaining: i64,
    /// The customer's balance before and after it was finalized. Negative: a credit.
    #[serde(default)]
    pub starting_balance: i64,
    pub ending_balance: Option<i64>,
    total_discount_amounts: Option<Vec<Amount>>,
    total_taxes: Option<Vec<Amount>>,
    pub created: i64,
    /// Of a renewal: the period that ended, although the invoice also bills the one that begins.
    pub period_start: i64,
    pub period_end: i64,
    pub hosted_invoice_url: Option<String>,
    pub invoice_pdf: Option<String>,
    #[serde(default)]
    pub status_transitions: Transitions,
    pub parent: Option<Parent>,
    #[serde(default)]
    metadata: HashMap<String, String>,
    pub confirmation_secret: Option<ConfirmationSecret>,
    /// Only if it is expanded.
    payments: Option<List<InvoicePayment>>,
}

#[derive(Clone, Debug, Deserialize)]
struct InvoicePayment {
    payment: Payment,
}

#[derive(Clone, Debug, Deserialize)]
struct Payment {
    /// An id, unless it is expanded.
    payment_intent: Option<Value>,
}

/// A payment, from its first attempt on.
#[derive(Clone, Debug, Deserialize)]
pub struct PaymentIntent {
    /// Such as `requires_payment_method` (the last attempt was declined), `requires_action` (the bank asks the customer to confirm
    /// it) or `processing`.
    pub status: String,
    pub client_secret: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub struct Transitions {
    /// When it became payable; the first try to collect it follows at once.
    pub finalized_at: Option<i64>,
    pub paid_at: Option<i64>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Parent {
    pub subscription_details: Option<SubscriptionDetails>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct SubscriptionDetails {
    pub subscription: Reference,
}

/// What a payment form needs.
#[derive(Clone, Debug, Deserialize)]
pub struct ConfirmationSecret {
    pub client_secret: String,
}

impl Invoice {
    /// The field to expand for [`Self::payment_intent`].
    pub const PAYMENT: &str = "payments.data.payment.payment_intent";

    pub fn discount(&self) -> i64 {
        Amount::sum(self.total_discount_amounts.as_deref())
    }

    pub fn tax(&self) -> i64 {
        Amount::sum(self.total_taxes.as_deref())
    }

    /// Its payment, if it is expanded: [`Self::PAYMENT`].
    pub fn payment_intent(&self) -> Option<PaymentIntent> {
        let mut payments = self.payments.iter().flat_map(|payments| &payments.data);
        payments.find_map(|payment| PaymentIntent::deserialize(payment.payment.payment_intent.as_ref()?).ok())
    }

    pub fn status(&self) -> &str {
        self.status.as_deref().unwrap_or("draft")
    }

    pub fn subscription(&self) -> Option<&str> {
        Some(self.parent.as_ref()?.subscription_details.as_ref()?.subscription.id())
    }

    /// The subscription whose usage it bills, if this service made the invoice. In Stripe it belongs to no subscription.
    pub fn charges(&self) -> Option<&str> {
        self.metadata.get(names::META_SUBSCRIPTION).map(String::as_str)
    }
}
