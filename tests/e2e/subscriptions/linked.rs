//! Customers that a person made in Stripe's dashboard: linked by a command, over the admin API, or by their metadata.

use std::sync::{Arc, OnceLock};

use billing_worker::{
    accounts::link::{self, Earlier},
    administration::By,
    error::Error,
    http::admin::{self, AdminApi},
    webhook::comparison,
};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::{
    findings::{findings, id, one, open, subscribe},
    rig::{DAY_S, Rig, Subscriber},
};

/// A customer with a working card, as made in the dashboard.
async fn made(rig: &Rig, name: &str) -> String {
    let form = format!("email={name}@example.com&payment_method=pm_card_visa");
    id(&rig.call_stripe(Method::POST, "/v1/customers", &form).await)
}

/// The plan's own price.
async fn price_of(rig: &Rig, plan: &str) -> String {
    let path = format!("/v1/prices?lookup_keys[0]=trendit_{plan}");
    id(&rig.call_stripe(Method::GET, &path, "").await["data"][0])
}

async fn link(rig: &Rig, who: &Subscriber, customer: &str, earlier: Earlier) -> Result<(), String> {
    let linked = link::link(&rig.billing.by(By::Command), who.account, customer, earlier).await;
    linked.map_err(|error: Error| error.to_string())
}

/// The account in the customer's metadata.
fn named(rig: &Rig, customer: &str) -> Value {
    rig.control().object(customer).unwrap()["metadata"]["trendit_account"].clone()
}

async fn links_in_the_audit_log(rig: &Rig, who: &Subscriber) -> Vec<(String, String)> {
    sqlx::query_as(
        "select actor, subject from audit_log where action = 'account.link_stripe' and account_id = $1 order by id",
    )
    .bind(who.account.0)
    .fetch_all(&rig.pool)
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customer_made_in_the_dashboard_is_linked_by_command_and_by_metadata() {
    let rig = Rig::start().await;
    rig.listen();
    let (ada, bob) = (rig.subscriber("ada").await, rig.subscriber("bob").await);
    let price = price_of(&rig, "pro").await;
    let customer = made(&rig, "ada").await;
    let subscription = subscribe(&rig, &customer, &price).await;
    assert_eq!(open(&rig).await, one("unlinked_payer", &customer));
    assert_eq!(rig.subscription(&ada).await["tier"], "free");

    // By command.
    link(&rig, &ada, &customer, Earlier::Kept).await.unwrap();
    assert_eq!(rig.subscription(&ada).await["stripe_subscription_id"], subscription);
    assert_eq!(named(&rig, &customer), ada.account.to_string());
    assert_eq!(open(&rig).await, []);
    rig.settle().await;
    link(&rig, &ada, &customer, Earlier::Kept).await.unwrap();
    let entry = ("command".to_owned(), customer.clone());
    assert_eq!(links_in_the_audit_log(&rig, &ada).await, [entry]);

    // Whose it is.
    for earlier in [Earlier::Kept, Earlier::Replaced] {
        let refused = link(&rig, &bob, &customer, earlier).await.unwrap_err();
        assert!(refused.contains(&ada.account.to_string()), "{refused}");
    }
    let other = made(&rig, "ada").await;
    let refused = link(&rig, &ada, &other, Earlier::Kept).await.unwrap_err();
    assert!(
        refused.contains(&customer) && refused.contains("--replace"),
        "{refused}"
    );
    let refused = link(&rig, &ada, &other, Earlier::Replaced).await.unwrap_err();
    assert!(refused.contains(&subscription), "{refused}");
    for unknown in ["cus_unknown", "cus_1/../x", "sub_1", ""] {
        let refused = link(&rig, &bob, unknown, Earlier::Kept).await.unwrap_err();
        assert!(refused.contains("no customer"), "{refused}");
    }

    // By metadata, as soon as Stripe says so.
    let theirs = made(&rig, "bob").await;
    subscribe(&rig, &theirs, &price).await;
    let metadata = format!("metadata[trendit_account]={}", bob.account);
    rig.call_stripe(Method::POST, &format!("/v1/customers/{theirs}"), &metadata)
        .await;
    rig.settle().await;
    assert_eq!(rig.subscription(&bob).await["tier"], "pro");
    assert_eq!(open(&rig).await, []);
    let entry = ("customer".to_owned(), theirs.clone());
    assert_eq!(links_in_the_audit_log(&rig, &bob).await, [entry]);

    // A customer that pays for nothing any more can be replaced.
    rig.call_stripe(Method::DELETE, &format!("/v1/subscriptions/{subscription}"), "")
        .await;
    rig.settle().await;
    link(&rig, &ada, &other, Earlier::Replaced).await.unwrap();
    assert_eq!(
        (named(&rig, &customer), named(&rig, &other)),
        (Value::Null, json!(ada.account.to_string()))
    );
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customer_is_linked_over_the_admin_api() {
    let rig = Rig::start().await;
    rig.listen();
    let ada = rig.subscriber("ada").await;
    let customer = made(&rig, "ada").await;
    subscribe(&rig, &customer, &price_of(&rig, "pro").await).await;
    let api = admin::router(AdminApi {
        token: Some("secret".into()),
        billing: Arc::new(OnceLock::from(rig.billing.by(By::AdminApi))),
        metrics: rig.metrics.clone(),
        notice_policy: Default::default(),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!(
        "http://{}/admin/accounts/{}/link-stripe",
        listener.local_addr().unwrap(),
        ada.account
    );
    let serving = TaskTracker::new().spawn(async move { axum::serve(listener, api).await });
    let _serving = AbortOnDropHandle::new(serving);
    let linked = async |body: Value| rig.http.post(&url, "secret", &body).await.unwrap();
    let account = linked(json!({ "customer_id": customer })).await.ok().unwrap();
    assert_eq!(account["plan"], "pro");
    let entry = ("admin api".to_owned(), customer);
    assert_eq!(links_in_the_audit_log(&rig, &ada).await, [entry]);
    let other = json!({ "customer_id": made(&rig, "ada").await });
    assert_eq!(linked(other).await.status, StatusCode::CONFLICT);
    assert_eq!(
        linked(json!({ "customer_id": "cus_no" })).await.status,
        StatusCode::NOT_FOUND
    );
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_has_to_link_a_customer_that_an_operator_ignores() {
    let rig = Rig::start().await;
    rig.listen();
    let price = price_of(&rig, "pro").await;
    let (ignored, other) = (made(&rig, "rehearsal").await, made(&rig, "ada").await);
    let path = format!("/v1/customers/{ignored}");
    rig.call_stripe(Method::POST, &path, "metadata[trendit]=ignore").await;
    for customer in [&ignored, &other] {
        subscribe(&rig, customer, &price).await;
    }
    assert_eq!(open(&rig).await, one("unlinked_payer", &other));
    // Said afterwards, it counts from the next comparison on.
    let path = format!("/v1/customers/{other}");
    rig.call_stripe(Method::POST, &path, "metadata[trendit]=ignore").await;
    comparison::run(&rig.billing).await.unwrap();
    assert_eq!(open(&rig).await, []);
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unlinked_payer_is_an_alarm() {
    let rig = Rig::start().await;
    rig.listen();
    let customer = made(&rig, "eve").await;
    rig.settle().await;
    assert_eq!(open(&rig).await, []);
    let subscription = subscribe(&rig, &customer, &price_of(&rig, "pro").await).await;
    let found = findings(&rig).await.remove(0);
    assert_eq!(
        (found.kind.as_str(), &found.subject, found.account_id),
        ("unlinked_payer", &customer, None)
    );
    assert!(found.text.contains(&subscription), "{found:?}");
    let command = format!("accounts link-stripe <account> {customer}");
    assert!(found.remedy.contains(&command), "{found:?}");

    // The subscription ends; what was paid is a month.
    rig.call_stripe(Method::DELETE, &format!("/v1/subscriptions/{subscription}"), "")
        .await;
    rig.settle().await;
    let invoice = id(&rig.control().invoices(&customer)[0]);
    assert!(findings(&rig).await[0].text.contains(&invoice));
    rig.turn_by(32 * DAY_S);
    comparison::run(&rig.billing).await.unwrap();
    assert_eq!(open(&rig).await, []);

    // Another business in the same Stripe account.
    let product = id(&rig.call_stripe(Method::POST, "/v1/products", "name=Consulting").await);
    let form = format!("currency=usd&unit_amount=1900&recurring[interval]=month&product={product}");
    let price = id(&rig.call_stripe(Method::POST, "/v1/prices", &form).await);
    subscribe(&rig, &customer, &price).await;
    assert_eq!(open(&rig).await, []);
    rig.assert_valid();
}
