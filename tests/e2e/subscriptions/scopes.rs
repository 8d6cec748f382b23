//! Which keys may change something in the billing API, for every route of its router.

use std::collections::BTreeSet;

use devstack::http::{HttpResponse, request};
use http::Method;
use schema::Scope;
use serde_json::{Value, json};

use super::rig::{Rig, Subscriber};

/// The source of the router. The test reads the routes from it, so that a new route is tested without being listed here.
const ROUTER: &str = include_str!("../../../billing-worker/src/http/public.rs");
/// Signed by Stripe instead of sent with a key.
const WEBHOOKS: &str = "/billing/webhooks/stripe";

/// Method and path of every route.
pub(super) fn routes() -> Vec<(Method, &'static str)> {
    // Routes that could not be read here.
    for other in [".nest(", ".merge(", ".route_service(", "any(", "MethodFilter"] {
        assert!(
            !ROUTER.contains(other),
            "the router has a route that this test cannot read: {other}"
        );
    }
    let methods = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
    let mut routes = Vec::new();
    for route in ROUTER.split(".route(").skip(1) {
        let route = route.split("\n        .").next().unwrap();
        let (path, handlers) = route.split_once('"').unwrap().1.split_once('"').unwrap();
        let of_route = |method: &&Method| handlers.contains(&format!("{}(", method.as_str().to_lowercase()));
        let found: Vec<_> = methods
            .iter()
            .filter(of_route)
            .map(|method| (method.clone(), path))
            .collect();
        assert!(!found.is_empty(), "{path}: no method");
        routes.extend(found);
    }
    routes
}

/// A request for each changing route, which succeeds for a Pro or a Free account if the key allows it.
fn changes() -> Vec<(Method, &'static str, Value)> {
    let post = |path, body| (Method::POST, path, body);
    vec![
        post("/billing/create-checkout-session", json!({ "tier": "pro" })),
        post("/billing/subscriptions", json!({ "tier": "pro" })),
        post("/billing/portal-session", json!({})),
        post("/billing/upgrade", json!({ "tier": "enterprise" })),
        post("/billing/cancel", json!({ "when": "now" })),
        post("/billing/resume", json!({})),
        (Method::PUT, "/billing/spend-cap", json!({ "cents": 5_000 })),
        (Method::DELETE, "/billing/spend-cap", json!({})),
    ]
}

async fn send(rig: &Rig, method: &Method, path: &str, key: &str, body: &Value) -> HttpResponse {
    let path = path.replace(['{', '}'], "");
    let url = format!("{}{path}", rig.url);
    let request = request(method.clone(), &url, key, Some(body)).unwrap();
    rig.http.send(request).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_for_calls_cannot_cancel_or_charge() {
    let listed: BTreeSet<String> = changes()
        .iter()
        .map(|(method, path, _)| format!("{method} {path}"))
        .collect();
    let changing = |(method, path): &(Method, &'static str)| method != Method::GET && *path != WEBHOOKS;
    let found: BTreeSet<String> = routes()
        .iter()
        .filter(|route| changing(route))
        .map(|(method, path)| format!("{method} {path}"))
        .collect();
    assert_eq!(listed, found, "add a request for each new route to `changes`");

    let rig = Rig::start().await;
    rig.listen();
    let (ada, bob) = (rig.subscribed("ada", "pro").await, rig.subscriber("bob").await);
    for owner in [&ada, &bob] {
        let key = rig.key(owner.account, &[Scope::Usage]).await;
        let before = (rig.state(owner).await.unwrap(), rig.control().requests().len());
        for (method, path, body) in changes() {
            let answer = send(&rig, &method, path, &key, &body).await;
            let problem = answer.json().unwrap();
            assert_eq!(
                (answer.status.as_u16(), &problem["error"]),
                (403, &json!("scope_missing")),
                "{method} {path}"
            );
            let message = problem["message"].as_str().unwrap();
            assert!(
                message.contains("`billing`") && message.contains("ask the operator"),
                "{message}"
            );
        }
        let after = (rig.state(owner).await.unwrap(), rig.control().requests().len());
        assert_eq!(before, after, "nothing was changed, and Stripe was not called");
    }

    // The scope is asked for before the body is read, and it is the only thing that was missing.
    let wrong = json!({ "colour": "red" });
    for (method, path, _) in changes() {
        let key = rig.key(bob.account, &[Scope::Usage]).await;
        assert_eq!(
            send(&rig, &method, path, &key, &wrong).await.status,
            403,
            "{method} {path}"
        );
        let key = rig.key(bob.account, &[Scope::Billing]).await;
        let status = send(&rig, &method, path, &key, &wrong).await.status.as_u16();
        assert!(![401, 403].contains(&status), "{method} {path}: {status}");
    }
    let owner = Subscriber {
        key: rig.key(ada.account, &[Scope::Billing]).await,
        ..ada.clone()
    };
    rig.post(&owner, "cancel", json!({})).await.ok().unwrap();
    rig.post(&owner, "resume", json!({})).await.ok().unwrap();
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_with_any_scope_reads_everything() {
    let rig = Rig::start().await;
    let ada = rig.subscriber("ada").await;
    for scope in Scope::ALL {
        let key = rig.key(ada.account, &[scope]).await;
        for (method, path) in routes().into_iter().filter(|(method, _)| method == Method::GET) {
            let status = send(&rig, &method, path, &key, &Value::Null).await.status.as_u16();
            assert!(
                status == 200 || (status == 404 && path.contains('{')),
                "{scope}: {path}: {status}"
            );
        }
    }
}
