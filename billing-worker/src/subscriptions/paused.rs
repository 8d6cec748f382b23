//! Subscriptions whose invoices Stripe does not collect, because a person stopped that (`pause_collection`). Stripe makes invoices
//! and voids them, leaves them as drafts or writes them off. The subscription works until the end of the period that was paid.

use clap::ValueEnum;
use schema::subscription::SubscriptionStatus;
use stripe_billing::{InvoiceStatus, invoice::ListInvoice};

use crate::stripe::{
    Stripe, StripeError,
    object::{Invoice, List, Subscription},
};

/// What happens to such a subscription after the period that was paid (`PAUSED_COLLECTION`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PausedCollection {
    /// It must be paid first.
    Refuse,
    /// It continues without payment.
    Allow,
}

/// The latest paid invoices of such a subscription. Among them is one of its last paid period: others, such as those of
/// upgrades, are fewer.
pub(super) async fn paid(stripe: &Stripe, subscription: &Subscription) -> Result<Vec<Invoice>, StripeError> {
    let is_live = SubscriptionStatus::from_stored(&subscription.status).is_some_and(SubscriptionStatus::is_live);
    if !is_live || subscription.pause_collection.is_none() {
        return Ok(Vec::new());
    }
    let list = ListInvoice::new()
        .subscription(subscription.id.as_str())
        .status(InvoiceStatus::Paid)
        .limit(10);
    Ok(stripe.read::<List<Invoice>>(&list).await?.data)
}
