use devstack::{
    Service, StripeDoubleOptions,
    http::request,
    stripe_double::{FaultKind, FaultRule},
};
use harness::eventually;
use http::Method;
use schema::Catalogue;
use serde_json::{Value, json};

use super::rig::{Rig, Subscriber};
use crate::billing::worker::WorkerServers;

async fn refused(rig: &Rig, who: &Subscriber, path: &str, body: Value) -> (u16, String) {
    let answer = rig.post(who, path, body.clone()).await;
    let problem = answer.json().unwrap();
    assert_eq!(
        answer.header("content-type"),
        Some("application/problem+json"),
        "{path} {body}"
    );
    assert!(!problem["message"].as_str().unwrap().is_empty());
    (
        answer.status.as_u16(),
        problem["error"].as_str().unwrap_or_default().to_owned(),
    )
}

fn is(status: u16, error: &str) -> (u16, String) {
    (status, error.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn impossible_requests_are_refused_with_a_reason() {
    let rig = Rig::start().await;
    rig.listen();
    let ada = rig.subscriber("ada").await;
    for (path, body, expected) in [
        (
            "create-checkout-session",
            json!({ "tier": "gold" }),
            is(404, "unknown_plan"),
        ),
        (
            "create-checkout-session",
            json!({ "tier": "free" }),
            is(422, "not_for_sale"),
        ),
        ("create-checkout-session", json!({}), is(400, "invalid_request")),
        (
            "create-checkout-session",
            json!({ "tier": "pro", "colour": "red" }),
            is(400, "invalid_request"),
        ),
        (
            "create-checkout-session",
            json!({ "tier": "pro", "success_url": "javascript:alert(1)" }),
            is(400, "invalid_request"),
        ),
        ("subscriptions", json!({ "tier": "gold" }), is(404, "unknown_plan")),
        ("upgrade", json!({ "tier": "pro" }), is(409, "not_subscribed")),
        ("cancel", json!({}), is(409, "not_subscribed")),
        ("cancel", json!({ "when": "never" }), is(400, "invalid_request")),
        ("cancel", json!({ "when": { "now": null } }), is(400, "invalid_request")),
        (
            "create-checkout-session",
            json!(["pro", null, null]),
            is(400, "invalid_request"),
        ),
        ("resume", json!({}), is(409, "not_subscribed")),
    ] {
        assert_eq!(refused(&rig, &ada, path, body.clone()).await, expected, "{path} {body}");
    }
    let answer = rig.post(&ada, "cancel", json!({ "when": 1 })).await;
    assert_eq!(answer.json().unwrap()["message"], "`when` must be a string, got 1");
    rig.check_out(&ada, "pro").await;
    rig.settle().await;
    for (path, body, expected) in [
        ("upgrade", json!({ "tier": "pro" }), is(409, "same_plan")),
        (
            "upgrade",
            json!({ "tier": "pro", "preview": true }),
            is(409, "same_plan"),
        ),
        ("upgrade", json!({ "tier": "free" }), is(422, "not_for_sale")),
        ("subscriptions", json!({ "tier": "pro" }), is(409, "already_subscribed")),
        ("resume", json!({}), is(409, "conflict")),
    ] {
        assert_eq!(refused(&rig, &ada, path, body.clone()).await, expected, "{path} {body}");
    }
    for after in ["nonsense", "in_", "in_%00", "cus_1", "in_ofNobody1"] {
        let url = format!("{}/billing/invoices?after={after}", rig.url);
        let answer = rig.http.get(&url, &ada.key).await.unwrap();
        let error = (answer.status.as_u16(), answer.json().unwrap()["error"].clone());
        assert_eq!(error, (400, json!("invalid_request")), "{after}");
    }
    rig.post(&ada, "cancel", json!({})).await.ok().unwrap();
    assert_eq!(refused(&rig, &ada, "cancel", json!({})).await, is(409, "conflict"));
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tier_can_be_in_the_query_string_but_not_contradict_the_body() {
    let rig = Rig::start().await;
    rig.listen();
    let ada = rig.subscriber("ada").await;
    for path in ["create-checkout-session", "subscriptions", "upgrade"] {
        let path = format!("{path}?tier=pro");
        let body = json!({ "tier": "enterprise" });
        assert_eq!(
            refused(&rig, &ada, &path, body).await,
            is(422, "contradictory_tier"),
            "{path}"
        );
        let twice = format!("{path}&tier=pro");
        assert_eq!(
            refused(&rig, &ada, &twice, json!({})).await,
            is(400, "invalid_request"),
            "{twice}"
        );
    }
    let unknown = refused(&rig, &ada, "create-checkout-session?tier=gold", json!({})).await;
    assert_eq!(unknown, is(404, "unknown_plan"));
    let begun = rig.post(&ada, "subscriptions?tier=pro", json!({})).await;
    assert_eq!(begun.status.as_u16(), 201);
    let opened = rig
        .post(&ada, "create-checkout-session?tier=pro", json!({ "tier": "pro" }))
        .await;
    let session = opened.ok().unwrap()["session_id"].as_str().unwrap().to_owned();
    rig.control().complete_checkout(&session).unwrap();
    rig.settle().await;
    let preview = rig
        .post(&ada, "upgrade?tier=enterprise", json!({ "preview": true }))
        .await;
    assert_eq!(preview.ok().unwrap()["plan"], "enterprise");
    rig.post(&ada, "upgrade?tier=enterprise", json!({})).await.ok().unwrap();
    assert_eq!(rig.subscription(&ada).await["tier"], "enterprise");
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_caller_sees_another_account() {
    let rig = Rig::start().await;
    let ada = rig.subscriber("ada").await;
    let url = format!("{}/billing/subscription", rig.url);
    let mut cut = ada.key.clone();
    cut.pop();
    for key in ["", "tr_live_nonsense", &cut] {
        let answer = rig
            .http
            .send(request(Method::GET, &url, key, None).unwrap())
            .await
            .unwrap();
        assert_eq!(answer.status.as_u16(), 401, "{key}");
        assert!(answer.header("www-authenticate").is_some());
    }
    sqlx::query("update api_keys set revoked_at = now()")
        .execute(&rig.pool)
        .await
        .unwrap();
    assert_eq!(rig.http.get(&url, &ada.key).await.unwrap().status.as_u16(), 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn prices_that_stripe_lacks_are_named() {
    let rig = Rig::without_prices(StripeDoubleOptions::default(), Catalogue::built_in()).await;
    let ada = rig.subscriber("ada").await;
    let answer = rig
        .post(&ada, "create-checkout-session", json!({ "tier": "pro" }))
        .await;
    let problem = answer.json().unwrap();
    assert_eq!(
        (answer.status.as_u16(), problem["error"].as_str()),
        (503, Some("prices_missing"))
    );
    assert!(
        problem["message"].as_str().unwrap().contains("trendit_pro"),
        "{problem}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_response_from_stripe_the_answer_is_503_and_nothing_is_billed() {
    let rig = Rig::start().await;
    let ada = rig.subscriber("ada").await;
    for kind in [
        FaultKind::TooManyRequests { retry_after_s: Some(1) },
        FaultKind::ServerError,
        FaultKind::BrokenJson,
        FaultKind::Reset,
    ] {
        rig.control().add_fault(FaultRule::new(kind));
        let answer = rig
            .post(&ada, "create-checkout-session", json!({ "tier": "pro" }))
            .await;
        let problem = answer.json().unwrap();
        let error = (answer.status.as_u16(), problem["error"].as_str());
        assert_eq!(error, (503, Some("stripe_unavailable")), "{kind:?}");
        assert!(answer.header("retry-after").is_some(), "{kind:?}");
        rig.control().clear_faults();
    }
    assert!(rig.control().customers().len() <= 1);
    rig.check_out(&ada, "pro").await;
    assert_eq!(rig.customers(&ada).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_cannot_change_a_plan_that_is_paid_in_stripe() {
    let rig = Rig::start().await;
    rig.listen();
    let ada = rig.subscribed("ada", "pro").await;
    let assigned = billing_worker::subscriptions::assign::assign(
        &rig.billing.admin,
        ada.account,
        "enterprise",
        rig.billing.clock.now_s(),
    )
    .await;
    assert!(assigned.unwrap_err().to_string().contains("in Stripe"));
    assert_eq!(rig.subscription(&ada).await["tier"], "pro");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_stripe_rejects_is_logged_at_the_start_and_the_rest_runs() {
    let rig = Rig::start().await;
    let servers = WorkerServers::new().await;
    let (options, url) = servers.worker("billing-worker");
    let options = options
        .env("STRIPE_SECRET_KEY", "sk_test_expired")
        .env("STRIPE_API_BASE", rig.stripe.url());
    let mut service = Service::start(options).await.unwrap();
    eventually("the key is logged as rejected", || {
        let logged = service.process().has_logged("Stripe does not accept STRIPE_SECRET_KEY");
        std::future::ready(logged.then_some(()))
    })
    .await;
    assert!(!service.process().has_logged("sk_test_expired"));
    let prices = rig.http.get(&format!("{url}/billing/plans"), "").await.unwrap();
    assert_eq!(prices.status.as_u16(), 200);
    let created = servers
        .json(&["accounts", "create", "--name", "Ada", "--email", "ada@example.com"])
        .await;
    let account = created["id"].as_str().unwrap();
    let issued = servers.json(&["keys", "create", account, "--scope", "billing"]).await;
    let who = issued["key"].as_str().unwrap();
    let path = format!("{url}/billing/create-checkout-session");
    let answer = rig.http.post(&path, who, &json!({ "tier": "pro" })).await.unwrap();
    let problem = answer.json().unwrap();
    let error = (answer.status.as_u16(), problem["error"].as_str());
    assert_eq!(error, (503, Some("stripe_not_configured")), "{problem}");
    assert!(!problem.to_string().contains("sk_test_"));
}

/// A field of the body in the query string would do something else than it says.
#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_query_parameter_is_refused_and_changes_nothing() {
    let rig = Rig::start().await;
    rig.listen();
    let ada = rig.subscribed("ada", "pro").await;
    let before = rig.state(&ada).await.unwrap();
    for (path, names) in [
        ("upgrade?tier=enterprise&preview=true", "preview"),
        ("cancel?when=now", "when"),
        ("resume?now=1", "now"),
        ("portal-session?return_url=x", "return_url"),
        ("subscriptions?tier=pro&success_url=x", "success_url"),
    ] {
        let refused = rig.post(&ada, path, json!({})).await;
        let problem = refused.json().unwrap();
        assert_eq!(
            (refused.status.as_u16(), &problem["error"]),
            (400, &json!("invalid_request")),
            "{path}"
        );
        let message = problem["message"].as_str().unwrap();
        assert!(
            message.starts_with(&format!("unknown query parameter `{names}`")),
            "{message}"
        );
    }
    for path in ["usage?period=previous", "subscription?account=x"] {
        let url = format!("{}/billing/{path}", rig.url);
        assert_eq!(
            rig.http.get(&url, &ada.key).await.unwrap().status.as_u16(),
            400,
            "{path}"
        );
    }
    assert_eq!(rig.state(&ada).await.unwrap(), before);
    let url = format!("{}/billing/subscription", rig.url);
    let answer = rig.http.get(&url, &ada.key).await.unwrap();
    assert_eq!(
        (answer.status.as_u16(), answer.header("cache-control")),
        (200, Some("no-store"))
    );
}
