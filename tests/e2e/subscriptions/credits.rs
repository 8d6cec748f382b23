//! Corrections return money: at the price that the corrected units were billed at, once.

use billing_worker::reports::{self, attention};
use devstack::stripe_double::{Card, FaultKind, FaultRule};
use http::Method;
use schema::Period;
use serde_json::{Value, json};

use super::{
    findings,
    rig::{Rig, Subscriber},
};

/// 160 exports on Pro: 60 more than are included, at 5 cents. The invoice is final. Returns the month of these exports.
async fn billed() -> (Rig, Subscriber, Period) {
    let rig = Rig::billing_usage().await;
    let ada = rig.subscribed("ada", "pro").await;
    rig.turn_by(3_600);
    let month = rig.period(&ada).await;
    rig.use_units(&ada, "export", 160).await;
    report(&rig).await;
    rig.end_period(&ada).await;
    assert_eq!(totals(&rig, &ada), [2_900, 2_900 + 300]);
    (rig, ada, month)
}

async fn report(rig: &Rig) {
    let reporter = rig.billing.reporter().unwrap();
    reports::step(reporter, rig.control().now()).await.unwrap();
}

fn customer(rig: &Rig, who: &Subscriber) -> String {
    rig.customers(who).remove(0)
}

fn totals(rig: &Rig, who: &Subscriber) -> Vec<i64> {
    numbers(&rig.control().invoices(&customer(rig, who)), "total")
}

fn numbers(objects: &[Value], field: &str) -> Vec<i64> {
    let number = |object: &Value| object[field].as_i64().unwrap();
    objects.iter().map(number).collect()
}

/// Cents that the customer has in credit.
async fn balance(rig: &Rig, who: &Subscriber) -> i64 {
    let path = format!("/v1/customers/{}", customer(rig, who));
    let found = rig.call_stripe(Method::GET, &path, "").await;
    -found["balance"].as_i64().unwrap()
}

async fn credit_notes(rig: &Rig, who: &Subscriber) -> Vec<Value> {
    let path = format!("/v1/credit_notes?customer={}", customer(rig, who));
    let found = rig.call_stripe(Method::GET, &path, "").await;
    found["data"].as_array().unwrap().clone()
}

async fn waiting(rig: &Rig) -> Vec<attention::CarryView> {
    let admin = &rig.billing.admin;
    attention::find(&admin.db, &admin.catalogue)
        .await
        .unwrap()
        .waiting_carries
}

#[tokio::test(flavor = "multi_thread")]
async fn voiding_units_of_a_final_invoice_returns_their_price() {
    let (rig, ada, month) = billed().await;
    // 20 of the 60 units above the included ones.
    rig.correct(&ada, month, "export", 20).await;
    report(&rig).await;
    assert_eq!(balance(&rig, &ada).await, 100);
    let notes = credit_notes(&rig, &ada).await;
    assert_eq!(numbers(&notes, "amount"), [100]);
    let invoice = &rig.control().invoices(&customer(&rig, &ada))[1];
    assert_eq!(notes[0]["invoice"], invoice["id"]);
    assert!(waiting(&rig).await.is_empty());
    let (action, details): (String, Value) =
        sqlx::query_as("select action, details from audit_log where account_id = $1 and action = 'usage.credit'")
            .bind(ada.account.0)
            .fetch_one(&rig.pool)
            .await
            .unwrap();
    assert_eq!(action, "usage.credit");
    assert_eq!(
        (&details["units"], &details["amount_cents"], &details["credit_notes"]),
        (&json!(-20), &json!(-100), &json!([notes[0]["id"]]))
    );

    // The customer sees it, and no operator needs to look at it.
    rig.settle().await;
    let seen = rig
        .get(&ada, &format!("invoices/{}", invoice["id"].as_str().unwrap()))
        .await;
    assert_eq!(seen["credit_notes"][0]["id"], notes[0]["id"], "{seen}");
    assert_eq!(findings::open(&rig).await, []);

    // All others: only what was paid for comes back.
    rig.correct(&ada, month, "export", 140).await;
    report(&rig).await;
    assert_eq!(balance(&rig, &ada).await, 300);
    // Nothing lowers the running month: its first 100 exports are included, and the next one is billed.
    rig.use_units(&ada, "export", 101).await;
    report(&rig).await;
    rig.end_period(&ada).await;
    assert_eq!(totals(&rig, &ada), [2_900, 3_200, 2_905]);
    let invoices = rig.get(&ada, "invoices").await;
    let last = &invoices["items"][0];
    let amounts = ["total_cents", "balance_applied_cents", "amount_due_cents"];
    assert_eq!(amounts.map(|field| last[field].as_i64().unwrap()), [2_905, 300, 2_605]);
    assert_eq!(balance(&rig, &ada).await, 0);
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credit_is_given_once_whatever_happens_to_the_response() {
    let (rig, ada, month) = billed().await;
    rig.correct(&ada, month, "export", 20).await;
    let fault = FaultRule::new(FaultKind::ServerError).path("/v1/credit_notes");
    rig.control().add_fault(fault.method("POST").after());
    report(&rig).await;
    assert_eq!(waiting(&rig).await.len(), 1, "its outcome is unknown");
    rig.control().clear_faults();
    // Later than Stripe remembers an idempotency key.
    rig.turn_by(25 * 3_600);
    report(&rig).await;
    report(&rig).await;
    assert!(waiting(&rig).await.is_empty());
    assert_eq!(numbers(&credit_notes(&rig, &ada).await, "amount"), [100]);
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credit_of_an_unpaid_invoice_lowers_what_is_owed() {
    let rig = Rig::billing_usage().await;
    let ada = rig.subscribed("ada", "pro").await;
    let month = rig.period(&ada).await;
    rig.turn_by(3_600);
    rig.use_units(&ada, "export", 160).await;
    report(&rig).await;
    let customer = customer(&rig, &ada);
    rig.control().set_card(&customer, Some(Card::Declines)).unwrap();
    rig.end_period(&ada).await;
    rig.correct(&ada, month, "export", 20).await;
    report(&rig).await;
    let invoices = rig.control().invoices(&customer);
    assert_eq!(numbers(&invoices[1..], "amount_remaining"), [3_100]);
    assert_eq!(balance(&rig, &ada).await, 0);
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credit_never_exceeds_what_the_invoice_has_left() {
    let (rig, ada, month) = billed().await;
    // Somebody has credited the usage in Stripe's dashboard already, but for 50 cents.
    let invoice = &rig.control().invoices(&customer(&rig, &ada))[1];
    let lines = invoice["lines"]["data"].as_array().unwrap();
    let usage = lines.iter().find(|line| line["amount"] == 300).unwrap();
    let form = format!(
        "invoice={}&credit_amount=250&lines[0][type]=invoice_line_item&lines[0][invoice_line_item]={}&lines[0][amount]=250",
        invoice["id"].as_str().unwrap(),
        usage["id"].as_str().unwrap()
    );
    rig.call_stripe(Method::POST, "/v1/credit_notes", &form).await;
    rig.correct(&ada, month, "export", 20).await;
    report(&rig).await;
    assert_eq!(balance(&rig, &ada).await, 300);
    let note: Option<String> = sqlx::query_scalar("select error from meter_carries")
        .fetch_one(&rig.pool)
        .await
        .unwrap();
    assert!(note.unwrap().contains("less"));
    // Nothing is left, and nothing is asked for again and again.
    rig.correct(&ada, month, "export", 20).await;
    report(&rig).await;
    assert_eq!(balance(&rig, &ada).await, 300);
    assert!(waiting(&rig).await.is_empty());
    rig.assert_valid();
}
