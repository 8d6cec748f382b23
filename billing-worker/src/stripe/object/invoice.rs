use serde::Deserialize;

use super::{InvoiceLine, List, Reference, amount::Amount};

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
    /// In the currency's smallest unit, as all amounts: before discounts and tax that is not included.
    #[serde(default)]
    pub subtotal: i64,
    pub total: i64,
    pub amount_due: i64,
    #[serde(default)]
    pub amount_paid: i64,
    #[serde(default)]
    pub amount_remaining: i64,
    total_discount_amounts: Option<Vec<Amount>>,
    total_taxes: Option<Vec<Amount>>,
    /// The first lines. An invoice contains at most ten; [`List::has_more`] says whether there are others.
    pub lines: Option<List<InvoiceLine>>,
    pub created: i64,
    /// Of a renewal: the period that ended, although the invoice also bills the one that begins.
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
    pub fn discount(&self) -> i64 {
        Amount::sum(self.total_discount_amounts.as_deref())
    }

    pub fn tax(&self) -> i64 {
        Amount::sum(self.total_taxes.as_deref())
    }

    pub fn subscription(&self) -> Option<&str> {
        Some(self.parent.as_ref()?.subscription_details.as_ref()?.subscription.id())
    }
}
