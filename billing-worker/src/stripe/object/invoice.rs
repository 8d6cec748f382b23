use serde::Deserialize;

use super::Reference;

#[derive(Clone, Debug, Deserialize)]
pub struct Invoice {
    /// The id of a preview refers to no stored invoice.
    #[serde(default)]
    pub id: String,
    pub customer: Option<Reference>,
    pub number: Option<String>,
    /// `draft`, `open`, `paid`, `void` or `uncollectible`; a preview has none.
    pub status: Option<String>,
    pub currency: String,
    /// In the currency's smallest unit.
    pub total: i64,
    pub amount_due: i64,
    #[serde(default)]
    pub amount_paid: i64,
    pub created: i64,
    pub period_start: i64,
    pub period_end: i64,
    pub hosted_invoice_url: Option<String>,
    pub invoice_pdf: Option<String>,
    #[serde(default)]
    pub status_transitions: Transitions,
    pub parent: Option<Parent>,
    pub confirmation_secret: Option<ConfirmationSecret>,
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
    pub fn subscription(&self) -> Option<&str> {
        Some(self.parent.as_ref()?.subscription_details.as_ref()?.subscription.id())
    }
}
