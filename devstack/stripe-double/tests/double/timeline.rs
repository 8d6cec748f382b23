//! Subscriptions that start at a fixed time.

use serde_json::Value;
use stripe_double::{BillingSettings, StripeDoubleOptions};

use crate::rig::Rig;

pub(crate) const DAY: i64 = 86_400;
/// 2026-01-31T12:00:00Z: the month after it is shorter.
pub(crate) const START: i64 = 1_769_860_800;

pub(crate) fn starting(billing: BillingSettings) -> StripeDoubleOptions {
    StripeDoubleOptions {
        start_at: Some(START),
        seed: 7,
        billing,
        ..StripeDoubleOptions::default()
    }
}

pub(crate) fn time(object: &Value, field: &str) -> i64 {
    object[field].as_i64().unwrap()
}

/// (start, end) of the first item.
pub(crate) fn period(subscription: &Value) -> (i64, i64) {
    let item = &subscription["items"]["data"][0];
    (time(item, "current_period_start"), time(item, "current_period_end"))
}

/// A customer's subscription to one price.
pub(crate) async fn subscribe(rig: &Rig, customer: &str, price: &str) -> String {
    let params = format!("customer={customer}&items[0][price]={price}");
    rig.client.id("/v1/subscriptions", &params).await
}
