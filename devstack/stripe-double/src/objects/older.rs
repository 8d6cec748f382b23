//! Objects as older API versions show them. An endpoint keeps the version that it was created with, independent of the account and the
//! caller.

use serde_json::{Value, json};

/// Since this version, items have the periods, and an invoice names its subscription under `parent`.
const SINCE: &str = "2025-03-31";

/// The object as `api_version` shows it. Versions are dates, so they can be compared as text.
pub(crate) fn shape(object: &Value, api_version: &str) -> Value {
    let mut object = object.clone();
    if api_version >= SINCE {
        return object;
    }
    match object.get("object").and_then(Value::as_str) {
        Some("subscription") => subscription(&mut object),
        Some("invoice") => invoice(&mut object),
        _ => {}
    }
    object
}

fn subscription(subscription: &mut Value) {
    let (mut start, mut end) = (Value::Null, Value::Null);
    let items = subscription.pointer_mut("/items/data").and_then(Value::as_array_mut);
    for item in items.into_iter().flatten().filter_map(Value::as_object_mut) {
        start = item.remove("current_period_start").unwrap_or_default();
        end = item.remove("current_period_end").unwrap_or_default();
    }
    subscription["current_period_start"] = start;
    subscription["current_period_end"] = end;
}

fn invoice(invoice: &mut Value) {
    let subscription = invoice.pointer("/parent/subscription_details/subscription").cloned();
    let paid = invoice["status"] == "paid";
    if let Some(fields) = invoice.as_object_mut() {
        fields.remove("parent");
        fields.insert("subscription".to_owned(), subscription.unwrap_or_default());
        fields.insert("paid".to_owned(), paid.into());
        fields.insert("payment_intent".to_owned(), json!(null));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_versions_have_the_period_and_the_subscription_at_the_top() {
        let items = json!({ "data": [{ "id": "si_1", "current_period_start": 1, "current_period_end": 2 }] });
        let now = json!({ "object": "subscription", "items": items });
        assert_eq!(shape(&now, "2026-09-30.endive"), now);
        let then = shape(&now, "2024-06-20");
        assert_eq!(
            (&then["current_period_start"], &then["current_period_end"]),
            (&json!(1), &json!(2))
        );
        assert_eq!(then["items"]["data"][0], json!({ "id": "si_1" }));

        let parent = json!({ "type": "subscription_details", "subscription_details": { "subscription": "sub_1" } });
        let then = shape(
            &json!({ "object": "invoice", "status": "paid", "parent": parent }),
            "2024-06-20",
        );
        assert_eq!((&then["subscription"], &then["paid"]), (&json!("sub_1"), &json!(true)));
        assert!(then.get("parent").is_none());
    }
}
