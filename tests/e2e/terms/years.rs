//! Gateways and a subscription that is paid per year: its limits are for a month.

use devstack::{http::request, stripe_double::Card};
use harness::StackOptions;
use http::{HeaderValue, Method, header::CONTENT_TYPE};
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::rig::{PLANS, Rig};

const DAY_S: i64 = 86_400;

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_a_yearly_plan_lasts_a_month() {
    let yearly = "prices = { month = 2900, year = 29000 }";
    let options = StackOptions {
        catalogue: Some(PLANS.replacen("prices = { month = 2900 }", yearly, 1)),
        // The year began 40 days ago, so its second month runs.
        stripe_behind_s: 40 * DAY_S,
        ..StackOptions::default()
    };
    let rig = Rig::start("free", options).await;
    // A checkout would expire a month after Stripe's clock, so a person subscribes the customer.
    rig.post("portal-session", json!({})).await.ok().unwrap();
    let customer = rig.stripe_customer();
    rig.stripe().set_card(&customer, Some(Card::Ok)).unwrap();
    let prices = call(&rig, Method::GET, "/v1/prices?lookup_keys[]=trendit_pro-year", "").await;
    let price = prices["data"][0]["id"].as_str().unwrap();
    let form = format!("customer={customer}&items[0][price]={price}");
    call(&rig, Method::POST, "/v1/subscriptions", &form).await;
    rig.until_on("pro").await;
    let shown = rig.get("subscription").await;
    let at = |field: &str| OffsetDateTime::parse(shown[field].as_str().unwrap(), &Rfc3339).unwrap();
    let (start, end) = (at("period_start"), at("period_end"));
    assert_eq!(shown["interval"], "year");
    assert!(
        (28..=31).contains(&(start - at("paid_period_start")).whole_days()),
        "{shown}"
    );
    assert!((28..=31).contains(&(end - start).whole_days()), "{shown}");

    // In the first month, everything was used.
    sqlx::query(
        "insert into quota_pool (account_id, usage_type, period_start, period_end, limit_units, granted_units)
         values ($1, 'sentiment_analysis', $2, $3, 2000, 2000)",
    )
    .bind(rig.ada.account_id.0)
    .bind(at("paid_period_start"))
    .bind(start)
    .execute(&rig.stack.pool)
    .await
    .unwrap();
    let limit = rig.limit("sentiment_analysis").await["limit"].as_i64().unwrap();
    let (status, spent) = rig.spend(0, "sentiment_analysis", limit).await;
    assert_eq!(status, 200, "{spent}");
    let refused = rig.client(0).spend("sentiment_analysis", 1).await.unwrap();
    assert_eq!(refused.status.as_u16(), 429);
    let retry_after: i64 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!(retry_after <= 31 * DAY_S, "{retry_after}");
    let message = refused.json().unwrap()["message"].as_str().unwrap().to_owned();
    let resets = format!("resets at {}", shown["period_end"].as_str().unwrap());
    assert!(message.contains(&resets), "{message}");
    assert_eq!(rig.stripe().violations(), Vec::<String>::new());
}

/// A call to Stripe that a person makes.
async fn call(rig: &Rig, method: Method, path: &str, form: &str) -> Value {
    let stripe = rig.stack.stripe.as_ref().unwrap();
    let mut call = request(method, &format!("{}{path}", stripe.url()), stripe.api_key(), None).unwrap();
    let form_type = HeaderValue::from_static("application/x-www-form-urlencoded");
    call.headers_mut().insert(CONTENT_TYPE, form_type);
    *call.body_mut() = form.to_owned().into();
    rig.http.send(call).await.unwrap().ok().unwrap()
}
