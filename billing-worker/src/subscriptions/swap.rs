//! The item changes that turn a subscription's prices into those of a plan.

use std::collections::HashMap;

use super::prices::PlanPrices;
use crate::stripe::{names, object::Subscription};

/// One item of a changed subscription.
pub struct Swap {
    /// `None`: a new item.
    pub item: Option<String>,
    pub price: Option<String>,
    /// `None`: the price is metered.
    pub quantity: Option<u64>,
    pub deleted: bool,
}

/// The plan's item gets the new price, once: an account has the limits of one plan. Each metered item gets the price of its
/// usage type, or is removed. Usage belongs to a meter, not to an item, and so continues.
pub fn swaps(subscription: &Subscription, prices: &PlanPrices) -> Vec<Swap> {
    let mut metered: HashMap<&str, &str> = prices
        .metered
        .iter()
        .map(|(usage_type, price)| (usage_type.as_str(), price.as_str()))
        .collect();
    let mut swaps = Vec::new();
    let plan_item = subscription.plan_item().map(|item| item.id.as_str());
    for item in &subscription.items.data {
        let usage_type = item.price.metadata.get(names::META_USAGE_TYPE);
        let (price, quantity) = match usage_type {
            None if plan_item == Some(item.id.as_str()) => (Some(prices.plan.as_str()), Some(1)),
            None => continue,
            Some(usage_type) => (metered.remove(usage_type.as_str()), None),
        };
        swaps.push(Swap {
            item: Some(item.id.clone()),
            quantity,
            deleted: price.is_none(),
            price: price.map(str::to_owned),
        });
    }
    let new = prices
        .metered
        .iter()
        .filter(|(usage_type, _)| metered.contains_key(usage_type.as_str()));
    swaps.extend(new.map(|(_, price)| Swap {
        item: None,
        price: Some(price.clone()),
        quantity: None,
        deleted: false,
    }));
    swaps
}
