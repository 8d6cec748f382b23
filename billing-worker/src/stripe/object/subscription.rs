use std::collections::HashMap;

use serde::Deserialize;

use super::{List, Reference};
use crate::stripe::names;

#[derive(Clone, Debug, Deserialize)]
pub struct Subscription {
    pub id: String,
    pub customer: Reference,
    /// Stripe's name of the status; see [`schema::subscription::SubscriptionStatus`].
    pub status: String,
    pub livemode: bool,
    pub created: i64,
    pub billing_cycle_anchor: i64,
    #[serde(default)]
    pub cancel_at_period_end: bool,
    /// When it is due to end.
    pub cancel_at: Option<i64>,
    pub canceled_at: Option<i64>,
    /// When it ended.
    pub ended_at: Option<i64>,
    pub trial_end: Option<i64>,
    /// Set while its invoices are not collected.
    pub pause_collection: Option<serde_json::Value>,
    pub schedule: Option<Reference>,
    /// A change that waits until the latest invoice is paid.
    pub pending_update: Option<PendingUpdate>,
    pub latest_invoice: Option<Reference>,
    pub items: List<Item>,
    #[serde(default)]
    pub metadata: HashMap<String, String>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct PendingUpdate {
    /// Then Stripe discards the change.
    pub expires_at: i64,
}

/// One price of a subscription. Periods are the item's, and may differ between items.
#[derive(Clone, Debug, Deserialize)]
pub struct Item {
    pub id: String,
    pub price: Price,
    pub current_period_start: i64,
    pub current_period_end: i64,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Price {
    pub id: String,
    #[serde(default)]
    pub active: bool,
    pub lookup_key: Option<String>,
    pub currency: String,
    pub unit_amount: Option<i64>,
    pub product: Reference,
    pub recurring: Option<Recurring>,
    #[serde(default)]
    pub metadata: HashMap<String, String>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Recurring {
    /// `licensed` or `metered`.
    pub usage_type: String,
    pub meter: Option<String>,
}

impl Price {
    pub fn is_metered(&self) -> bool {
        self.recurring
            .as_ref()
            .is_some_and(|recurring| recurring.usage_type == "metered")
    }
}

impl Subscription {
    /// The item that is the plan itself; `None`: it has none of our plans.
    pub fn plan_item(&self) -> Option<&Item> {
        let mut items = self.items.data.iter();
        items.find(|item| !item.price.is_metered() && item.price.plan().is_some())
    }
}

impl Price {
    /// The plan that the price belongs to. The metadata decide, because they stay when the lookup key moves to another price.
    pub fn plan(&self) -> Option<&str> {
        let by_key = || self.lookup_key.as_deref().and_then(|key| key.strip_prefix("trendit_"));
        self.metadata.get(names::META_PLAN).map(String::as_str).or_else(by_key)
    }
}
