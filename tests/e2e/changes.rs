//! An operator's change reaches every gateway by an announcement, long before the gateways refresh on their own.

use std::time::Instant;

use devstack::{admin::Customer, http::Http};
use harness::{Client, Stack, StackOptions, eventually, wait::SOON};
use schema::Scope;
use serde_json::json;

use crate::SERVICES;

async fn two_gateways() -> (Stack, Customer, [Client; 2]) {
    let stack = Stack::start(
        SERVICES,
        StackOptions {
            gateways: 2,
            ..StackOptions::default()
        },
    )
    .await
    .unwrap();
    let ada = stack.admin.customer("ada", "free").await.unwrap();
    let clients = [Client::new(stack.gateway(0), &ada), Client::new(stack.gateway(1), &ada)];
    for client in &clients {
        assert_eq!(client.spend("api_call", 1).await.unwrap().status, 200);
    }
    (stack, ada, clients)
}

async fn both_answer(clients: &[Client; 2], units: i64, status: u16) {
    let changed = Instant::now();
    for client in clients {
        eventually(&format!("{status} is answered"), async || {
            (client.spend("api_call", units).await.unwrap().status == status).then_some(())
        })
        .await;
    }
    assert!(changed.elapsed() < SOON, "{:?}", changed.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_is_refused_once_announced() {
    let (stack, ada, clients) = two_gateways().await;
    stack.admin.revoke(ada.key_id).await.unwrap();
    both_answer(&clients, 1, 401).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_scope_is_in_force_within_a_second() {
    let (stack, ada, clients) = two_gateways().await;
    let (usage, billing) = (&[Scope::Usage][..], &[Scope::Billing][..]);
    let cancel = async || {
        let url = format!("{}/billing/cancel", stack.billing_url);
        let answer = Http::default().post(&url, &ada.key, &json!({})).await.unwrap();
        answer.json().unwrap()["error"].as_str().unwrap().to_owned()
    };
    stack.admin.change_scopes(ada.key_id, &[], usage).await.unwrap();
    both_answer(&clients, 1, 403).await;
    for path in ["/api/posts/search", "/v1/usage", "/v1/authorize/api/posts/search"] {
        let refused = clients[1].get(path).await.unwrap();
        let problem = refused.json().unwrap();
        assert_eq!(
            (refused.status.as_u16(), &problem["error"]),
            (403, &json!("scope_missing")),
            "{path}"
        );
        let message = problem["message"].as_str().unwrap();
        assert!(
            message.contains("`usage`") && message.contains(&ada.key_id.to_string()),
            "{message}"
        );
        let challenge = refused.header("www-authenticate");
        assert_eq!(challenge, Some("Bearer error=\"insufficient_scope\""));
    }
    assert_ne!(cancel().await, "scope_missing", "the key still has billing");

    stack.admin.change_scopes(ada.key_id, usage, billing).await.unwrap();
    both_answer(&clients, 1, 200).await;
    assert_eq!(cancel().await, "scope_missing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_larger_plan_applies_within_a_second() {
    let (stack, ada, clients) = two_gateways().await;
    assert_eq!(
        clients[0].spend("api_call", 101).await.unwrap().status,
        429,
        "Free has 100"
    );
    stack.admin.assign(ada.account_id, "pro").await.unwrap();
    both_answer(&clients, 101, 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stripe_change_applies_at_every_gateway_once_announced() {
    let options = StackOptions {
        gateways: 2,
        stripe: true,
        ..StackOptions::default()
    };
    let stack = Stack::start(SERVICES, options).await.unwrap();
    let ada = stack.admin.customer("ada", "free").await.unwrap();
    let clients = [Client::new(stack.gateway(0), &ada), Client::new(stack.gateway(1), &ada)];
    for client in &clients {
        assert_eq!(client.spend("api_call", 101).await.unwrap().status, 429, "Free has 100");
    }
    let (http, billing) = (Http::default(), format!("{}/billing", stack.billing_url));
    let tier = json!({ "tier": "pro" });
    let opened = http
        .post(&format!("{billing}/create-checkout-session"), &ada.key, &tier)
        .await;
    let opened = opened.unwrap().ok().unwrap();
    let stripe = stack.stripe.as_ref().unwrap().control();
    stripe
        .complete_checkout(opened["session_id"].as_str().unwrap())
        .unwrap();
    both_answer(&clients, 101, 200).await;

    let now = json!({ "when": "now" });
    http.post(&format!("{billing}/cancel"), &ada.key, &now)
        .await
        .unwrap()
        .ok()
        .unwrap();
    both_answer(&clients, 101, 429).await;
    assert_eq!(stripe.violations(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lowered_limit_also_holds_for_leased_units() {
    let (stack, ada, clients) = two_gateways().await;
    stack.admin.set_limit(ada.account_id, "api_call", 2).await.unwrap();
    both_answer(&clients, 1, 429).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_works_at_once_even_if_it_was_tried_before() {
    let (stack, ada, clients) = two_gateways().await;
    let (_, key) = stack.admin.key(ada.account_id).await.unwrap();
    let new = Client::new(stack.gateway(1), &Customer { key, ..ada });
    assert_eq!(new.spend("api_call", 1).await.unwrap().status, 200);
    assert_eq!(
        clients[1].spend("api_call", 1).await.unwrap().status,
        200,
        "the old key still works"
    );
}
