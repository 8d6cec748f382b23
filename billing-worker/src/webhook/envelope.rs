//! The ids in an event: a snapshot event or a thin event, in any API version.

use serde::Deserialize;
use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// The fields that are read from an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    pub id: String,
    pub kind: String,
    /// When it happened, in Unix seconds by Stripe's clock.
    pub created: i64,
    pub livemode: bool,
    /// `None`: a thin event.
    pub api_version: Option<String>,
    /// Set if the event belongs to an account that is connected to ours.
    pub account: Option<String>,
    pub object_id: Option<String>,
    pub customer_id: Option<String>,
    pub subscription_id: Option<String>,
}

#[derive(Deserialize)]
struct Raw {
    id: String,
    #[serde(rename = "type")]
    kind: String,
    /// A number in a snapshot event, a text in a thin one.
    created: Value,
    #[serde(default)]
    livemode: bool,
    api_version: Option<String>,
    account: Option<String>,
    data: Option<Value>,
    related_object: Option<Value>,
}

impl Envelope {
    pub fn parse(body: &[u8]) -> Result<Self, String> {
        let raw: Raw = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        let created = match &raw.created {
            Value::Number(seconds) => seconds.as_i64(),
            Value::String(text) => OffsetDateTime::parse(text, &Rfc3339)
                .ok()
                .map(OffsetDateTime::unix_timestamp),
            _ => None,
        };
        let object = raw.data.as_ref().and_then(|data| data.get("object"));
        let kind = object.and_then(|object| object.get("object")).and_then(Value::as_str);
        let object_id = object
            .and_then(|object| id_of(object.get("id")))
            .or_else(|| id_of(raw.related_object.as_ref().and_then(|related| related.get("id"))));
        // An object of this kind itself: its own id.
        let own = |wanted: &str| object_id.clone().filter(|_| kind == Some(wanted));
        let of = |path: &[&str]| {
            let found = path.iter().try_fold(object?, |value, name| value.get(name));
            id_of(found)
        };
        let customer_id = own("customer").or_else(|| of(&["customer"]));
        let subscription_id = own("subscription")
            .or_else(|| of(&["subscription"]))
            .or_else(|| of(&["parent", "subscription_details", "subscription"]));
        Ok(Self {
            created: created.ok_or("`created` is not a valid time")?,
            livemode: raw.livemode,
            api_version: raw.api_version,
            account: raw.account,
            object_id,
            customer_id,
            subscription_id,
            id: bounded(raw.id).ok_or("`id` is empty or too long")?,
            kind: bounded(raw.kind).ok_or("`type` is empty or too long")?,
        })
    }
}

/// An id, or the id of the object if Stripe expanded it.
fn id_of(value: Option<&Value>) -> Option<String> {
    let text = match value? {
        Value::String(id) => id,
        object => object.get("id")?.as_str()?,
    };
    bounded(text.to_owned())
}

fn bounded(text: String) -> Option<String> {
    (1..=255).contains(&text.len()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn snapshot(object: Value) -> Envelope {
        let event = json!({ "id": "evt_1", "object": "event", "type": "x.y", "created": 1_795_395_600, "livemode": false,
                            "api_version": "2026-09-30.endive", "data": { "object": object } });
        Envelope::parse(event.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn ids_are_found_wherever_a_version_puts_them() {
        for (object, expected) in [
            (
                json!({ "id": "sub_1", "object": "subscription", "customer": "cus_1" }),
                ("sub_1", Some("cus_1"), Some("sub_1")),
            ),
            (
                json!({ "id": "cus_1", "object": "customer" }),
                ("cus_1", Some("cus_1"), None),
            ),
            (
                json!({ "id": "in_1", "object": "invoice", "customer": { "id": "cus_1", "deleted": true },
                        "parent": { "subscription_details": { "subscription": "sub_1" } } }),
                ("in_1", Some("cus_1"), Some("sub_1")),
            ),
            (
                json!({ "id": "in_1", "object": "invoice", "customer": "cus_1", "subscription": "sub_1" }),
                ("in_1", Some("cus_1"), Some("sub_1")),
            ),
            (
                json!({ "id": "cs_1", "object": "checkout.session", "customer": null, "subscription": null }),
                ("cs_1", None, None),
            ),
        ] {
            let envelope = snapshot(object);
            let found = (
                envelope.object_id.as_deref().unwrap(),
                envelope.customer_id.as_deref(),
                envelope.subscription_id.as_deref(),
            );
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_thin_event_is_read_too() {
        let thin = json!({ "id": "evt_1", "object": "v2.core.event", "type": "v1.billing.meter.error_report_triggered",
                           "created": "2026-11-24T10:00:00.000Z", "livemode": true,
                           "related_object": { "id": "mtr_1", "type": "billing.meter" } });
        let envelope = Envelope::parse(thin.to_string().as_bytes()).unwrap();
        assert_eq!(
            (envelope.object_id.as_deref(), envelope.created),
            (Some("mtr_1"), 1_795_514_400)
        );
        assert!(envelope.livemode && envelope.api_version.is_none());
    }

    proptest! {
        #[test]
        fn nonsense_never_panics(body: Vec<u8>) {
            drop(Envelope::parse(&body));
        }
    }
}
