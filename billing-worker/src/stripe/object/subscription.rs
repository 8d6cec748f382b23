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
    /// Of all its prices and invoices. Its prices may have others, too.
    pub currency: String,
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
    /// What the subscription has after the change.
    #[serde(default)]
    pub subscription_items: Option<Vec<Item>>,
}

/// One price of a subscription. Periods are the item's, and may differ between items.
#[derive(Clone, Debug, Deserialize)]
pub struct Item {
    pub id: String,
    pub price: Price,
    /// `None`: the price is metered.
    pub quantity: Option<u64>,
    pub created: Option<i64>,
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
    /// `day`, `week`, `month` or `year`.
    interval: Option<String>,
    /// Intervals between two invoices.
    interval_count: Option<u32>,
}

impl Recurring {
    /// How many months an invoice pays for. 0: the interval is not whole months, such as a week.
    fn months(&self) -> i32 {
        let count = self.interval_count.map_or(1, |count| i32::try_from(count).unwrap_or(0));
        match self.interval.as_deref() {
            None | Some("month") => count,
            Some("year") => count.saturating_mul(12),
            Some(_) => 0,
        }
    }
}

impl Price {
    /// How many months an invoice pays for. 0: the interval is not whole months, such as a week.
    pub fn interval_months(&self) -> i32 {
        self.recurring.as_ref().map_or(1, Recurring::months)
    }

    /// The usage type that it bills by the unit. `None`: it is not a metered price of ours.
    pub fn usage_type(&self) -> Option<&str> {
        self.metadata.get(names::META_USAGE_TYPE).map(String::as_str)
    }

    /// The slot of its meter.
    pub fn meter_slot(&self) -> i16 {
        let slot = self.metadata.get(names::META_METER_SLOT);
        slot.and_then(|slot| slot.parse().ok()).unwrap_or(0)
    }

    pub fn is_metered(&self) -> bool {
        self.recurring
            .as_ref()
            .is_some_and(|recurring| recurring.usage_type == "metered")
    }
}

impl Subscription {
    /// The item that is the plan itself; `None`: it has none of our plans.
    pub fn plan_item(&self) -> Option<&Item> {
        self.plan_items().next()
    }

    /// If there are several, somebody added the others in Stripe by mistake.
    pub fn plan_items(&self) -> impl Iterator<Item = &Item> {
        let items = self.items.data.iter();
        items.filter(|item| !item.price.is_metered() && item.price.plan().is_some())
    }

    /// Whether an operator says that it is for another product than our plans.
    pub fn is_ignored(&self) -> bool {
        let items = self.items.data.iter();
        names::is_ignored(&self.metadata) || items.map(|item| &item.price.metadata).any(names::is_ignored)
    }
}

impl Price {
    /// The plan that the price belongs to. The metadata decide, because they stay when the lookup key moves to another price. A
    /// price that a person made in Stripe's dashboard has neither: its product decides.
    pub fn plan(&self) -> Option<&str> {
        let is_plan = self
            .recurring
            .as_ref()
            .is_some_and(|recurring| recurring.usage_type == "licensed");
        let by_product = || names::plan_of_product(self.product.id()).filter(|_| is_plan);
        self.plan_of_ours().or_else(by_product)
    }

    /// Whether this service made it, or an operator says that it is as good.
    pub fn is_ours(&self) -> bool {
        self.plan_of_ours().is_some()
    }

    fn plan_of_ours(&self) -> Option<&str> {
        let by_key = || self.lookup_key.as_deref().and_then(names::plan_of_key);
        self.metadata.get(names::META_PLAN).map(String::as_str).or_else(by_key)
    }
}
