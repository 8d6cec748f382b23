use super::*;
use serde_json::json;

fn faults(method: &str, path: &str, body: &str) -> Vec<(&'static str, String)> {
    match schema().check(method, path, &Param::parse(body).0) {
        Ok(()) => Vec::new(),
        Err(Refusal::Faults(faults)) => faults.into_iter().map(|fault| (fault.code, fault.param)).collect(),
        Err(Refusal::Unknown(what)) => panic!("{what}"),
    }
}

#[test]
fn valid_requests_pass() {
    let item = "items[0][price]=price_1&items[0][quantity]=2&metadata[account]=a";
    for (method, path, body) in [
        ("POST", "/v1/subscriptions", item),
        ("POST", "/v1/customers", "email=a%40example.com&metadata="),
        ("GET", "/v1/prices", "lookup_keys[]=a&lookup_keys[]=b&active=true"),
        ("DELETE", "/v1/subscriptions/sub_1", "invoice_now=true&prorate=true"),
        ("POST", "/v1/invoices/create_preview", "customer=cus_1"),
        ("GET", "/v1/events", "created[gte]=5&delivery_success=false"),
        ("POST", "/v1/subscriptions/sub_1", "trial_end=now&cancel_at="),
    ] {
        assert_eq!(faults(method, path, body), [], "{method} {path} {body}");
    }
}

#[test]
fn invalid_requests_name_the_parameter() {
    for (path, body, expected) in [
        ("/v1/prices", "product=prod_1", ("parameter_missing", "currency")),
        ("/v1/customers", "nmae=x", ("parameter_unknown", "nmae")),
        (
            "/v1/subscriptions/sub_1",
            "proration_behavior=immediate_with_options",
            ("", "proration_behavior"),
        ),
        (
            "/v1/subscriptions",
            "items[0][quantity]=many",
            ("", "items[0][quantity]"),
        ),
        ("/v1/subscriptions", "items[1][price]=a", ("parameter_invalid", "items")),
        (
            "/v1/billing/meter_events",
            "event_name=a",
            ("parameter_missing", "payload"),
        ),
        (
            "/v1/billing/meter_events",
            "event_name=a&payload[value]=1&timestamp=99999999999999999999",
            ("", "timestamp"),
        ),
    ] {
        assert_eq!(
            faults("POST", path, body),
            [(expected.0, expected.1.to_owned())],
            "{path} {body}"
        );
    }
}

#[test]
fn unknown_paths_and_methods_are_refused() {
    let check = |method, path| schema().check(method, path, &Param::default());
    assert!(matches!(
        check("GET", "/v1/invoices/upcoming/lines/x"),
        Err(Refusal::Unknown(_))
    ));
    assert!(matches!(check("PUT", "/v1/customers"), Err(Refusal::Unknown(_))));
    assert!(matches!(check("GET", "/v1/customers/"), Err(Refusal::Unknown(_))));
}

#[test]
fn objects_must_be_whole_and_hold_nothing_else() {
    let meter_event = json!({ "object": "billing.meter_event", "created": 1, "event_name": "a", "identifier": "i",
            "livemode": false, "payload": { "value": "1" }, "timestamp": 1 });
    assert_eq!(schema().check_object(&meter_event), [""; 0]);
    let mut broken = meter_event.clone();
    broken["timestamp"] = json!("1");
    broken["more"] = json!(1);
    broken.as_object_mut().unwrap().remove("identifier");
    assert_eq!(
        schema().check_object(&broken).len(),
        3,
        "{:?}",
        schema().check_object(&broken)
    );
    let list = json!({ "object": "list", "data": [broken], "has_more": false });
    assert_eq!(schema().check_object(&list).len(), 4);
}
