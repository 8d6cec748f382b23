//! What the checkout can ask for: promotion codes, tax, and the address that the tax needs. Where it leads.

use devstack::{StripeDoubleOptions, stripe_double::Control};
use http::Method;
use schema::Catalogue;
use serde_json::{Value, json};

use super::rig::{Rig, Subscriber};

async fn with(settings: &[&str]) -> Rig {
    let mut rig = Rig::with(StripeDoubleOptions::default(), Catalogue::built_in()).await;
    rig.listen();
    rig.set(settings).await;
    rig
}

/// Opens a checkout for Pro; returns its session.
async fn open(rig: &Rig, who: &Subscriber) -> String {
    let opened = rig.post(who, "create-checkout-session", json!({ "tier": "pro" })).await;
    opened.ok().unwrap()["session_id"].as_str().unwrap().to_owned()
}

async fn last_invoice(rig: &Rig, who: &Subscriber) -> Value {
    let invoices = rig.get(who, "invoices").await;
    let id = invoices["items"][0]["id"].as_str().unwrap();
    rig.get(who, &format!("invoices/{id}")).await
}

/// The code `SAVE20` takes 20 % off.
async fn make_code(rig: &Rig) {
    let coupon = rig
        .call_stripe(Method::POST, "/v1/coupons", "percent_off=20&duration=forever")
        .await;
    let form = format!(
        "promotion[type]=coupon&promotion[coupon]={}&code=SAVE20",
        coupon["id"].as_str().unwrap()
    );
    rig.call_stripe(Method::POST, "/v1/promotion_codes", &form).await;
}

fn with_code(control: &Control, session: &str) -> bool {
    control.complete_checkout_with_code(session, "SAVE20").is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_code_lowers_the_invoice_where_the_operator_allows_codes() {
    let rig = with(&["--checkout-promotion-codes"]).await;
    make_code(&rig).await;
    let ada = rig.subscriber("ada").await;
    let session = open(&rig, &ada).await;
    assert!(with_code(&rig.control(), &session));
    rig.settle().await;
    assert_eq!(rig.subscription(&ada).await["tier"], "pro");
    let invoice = last_invoice(&rig, &ada).await;
    let amounts = ["subtotal_cents", "discount_cents", "total_cents"];
    assert_eq!(
        amounts.map(|field| invoice[field].as_i64().unwrap()),
        [2_900, 580, 2_320]
    );
    assert_eq!(invoice["lines"][0]["discount_cents"], 580, "{invoice}");
    rig.assert_valid();

    let rig = with(&[]).await;
    make_code(&rig).await;
    let ada = rig.subscriber("ada").await;
    let session = open(&rig, &ada).await;
    assert!(!with_code(&rig.control(), &session), "the page has no field for a code");
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn tax_is_on_top_of_the_price() {
    let rig = with(&[
        "--automatic-tax",
        "--checkout-tax-ids",
        "--checkout-billing-address",
        "required",
    ])
    .await;
    rig.control().set_tax_basis_points(Some(1_900));
    let ada = rig.subscriber("ada").await;
    // Without a checkout nobody has asked for the address.
    let refused = rig.post(&ada, "subscriptions", json!({ "tier": "pro" })).await;
    assert_eq!(refused.status.as_u16(), 422);
    assert_eq!(refused.json().unwrap()["error"], "billing_address_missing");
    let session = open(&rig, &ada).await;
    rig.control().complete_checkout(&session).unwrap();
    rig.settle().await;
    let invoice = last_invoice(&rig, &ada).await;
    let amounts = ["subtotal_cents", "tax_cents", "total_cents"];
    assert_eq!(
        amounts.map(|field| invoice[field].as_i64().unwrap()),
        [2_900, 551, 3_451]
    );
    // The next invoices, too.
    rig.end_period(&ada).await;
    let invoice = last_invoice(&rig, &ada).await;
    assert_eq!(
        amounts.map(|field| invoice[field].as_i64().unwrap()),
        [2_900, 551, 3_451]
    );
    rig.assert_valid();
}

/// A client that corrects its URL is not led to the wrong page for another hour.
#[tokio::test(flavor = "multi_thread")]
async fn a_checkout_with_another_url_is_another_checkout() {
    let rig = with(&[]).await;
    let ada = rig.subscriber("ada").await;
    let open = async |url: &str| {
        let body = json!({ "tier": "pro", "success_url": url });
        rig.post(&ada, "create-checkout-session", body).await.ok().unwrap()
    };
    let wrong = open("https://wrong.example/").await;
    assert_eq!(open("https://wrong.example/").await, wrong);
    let right = open("https://right.example/").await;
    assert_ne!(right["session_id"], wrong["session_id"]);
    let status = |session: &Value| {
        let found = rig.control().object(session["session_id"].as_str().unwrap()).unwrap();
        (found["status"].clone(), found["success_url"].clone())
    };
    assert_eq!(status(&wrong), (json!("expired"), json!("https://wrong.example/")));
    assert_eq!(status(&right), (json!("open"), json!("https://right.example/")));
    rig.assert_valid();
}
