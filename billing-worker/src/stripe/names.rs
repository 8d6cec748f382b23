//! The names by which this service's objects are found in Stripe, in every account and mode.

use std::{collections::HashMap, fmt::Display};

use schema::{AccountId, Interval, Plan, UsageType};

/// Metadata of a product, price or subscription: the plan.
pub const META_PLAN: &str = "trendit_plan";
/// Metadata of a metered price, or of an invoice item for late usage: the usage type that it bills.
pub const META_USAGE_TYPE: &str = "trendit_usage_type";
/// Metadata of a metered price: the slot of its meter. Absent: 0.
pub const META_METER_SLOT: &str = "trendit_meter_slot";
/// Metadata of a price: its terms, in short. The terms of a price never change: new terms need a new price.
pub const META_TERMS: &str = "trendit_terms";
/// Metadata of a plan's price: the beginning of the hash of the terms of its version.
pub const META_VERSION: &str = "trendit_version";
/// Metadata of a customer or subscription: the account.
pub const META_ACCOUNT: &str = "trendit_account";

/// Metadata of the configuration of the customer portal that this service made; its value is "1".
pub const META_OURS: &str = "trendit";

/// Metadata of an invoice item or an invoice for late usage: the carry that it bills.
pub const META_CARRY: &str = "trendit_carry";

/// Metadata of an invoice that this service makes for usage: the subscription whose usage it bills.
pub const META_SUBSCRIPTION: &str = "trendit_subscription";

/// Metadata of a subscription or price that operators set: it is for another product than these plans. Of a customer: nobody has to
/// link it to an account.
pub const META_IGNORE: (&str, &str) = ("trendit", "ignore");

/// Whether an object with this metadata is none of ours.
pub fn is_ignored(metadata: &HashMap<String, String>) -> bool {
    let (key, value) = META_IGNORE;
    metadata.get(key).is_some_and(|is| is == value)
}

/// In a meter event's payload: the customer, and the units.
pub const PAYLOAD_CUSTOMER: &str = "stripe_customer_id";
pub const PAYLOAD_VALUE: &str = "value";

/// How many meters a usage type has. Usage that costs differently at the same time is reported to different ones.
pub const METER_SLOTS: i16 = 3;

/// The event name of a usage type's meter in this slot, even if the type is no longer in the catalogue.
pub fn meter_event_name(usage_type: impl Display, slot: i16) -> String {
    match slot {
        0 => format!("trendit_{usage_type}"),
        slot => format!("trendit{}_{usage_type}", slot + 1),
    }
}

/// A plan's product.
pub fn product_id(plan: &str) -> String {
    format!("trendit_{plan}")
}

/// The plan of a plan's product.
pub fn plan_of_product(product_id: &str) -> Option<&str> {
    product_id.strip_prefix("trendit_")
}

/// The product of a usage type that a plan bills: a line of its own on invoices.
pub fn overage_product_id(plan: &str, usage_type: UsageType) -> String {
    format!("trendit_{plan}_{usage_type}")
}

/// The lookup key of a plan's price. No plan or usage type has a `-` in its name.
pub fn lookup_key(plan: &str, interval: Interval) -> String {
    match interval {
        Interval::Month => format!("trendit_{plan}"),
        Interval::Year => format!("trendit_{plan}-year"),
    }
}

/// The plan of such a lookup key.
pub fn plan_of_key(lookup_key: &str) -> Option<&str> {
    let key = lookup_key.strip_prefix("trendit_")?;
    Some(key.strip_suffix("-year").unwrap_or(key))
}

/// The lookup key of the metered price of a usage type in a plan.
pub fn overage_lookup_key(plan: &str, usage_type: UsageType) -> String {
    format!("trendit_{plan}_{usage_type}")
}

/// The lookup key of the copy of a metered price for the meter in this slot.
pub fn slot_lookup_key(price: &str, slot: i16) -> String {
    format!("trendit_slot{slot}_{price}")
}

/// Metadata of a customer's checkout or subscription.
pub fn metadata(account: AccountId, plan: &Plan) -> HashMap<String, String> {
    HashMap::from([
        (META_ACCOUNT.to_owned(), account.to_string()),
        (META_PLAN.to_owned(), plan.id.clone()),
    ])
}
