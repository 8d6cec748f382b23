//! Payments that do not end at once: 3-D Secure and bank debits.

use serde_json::{Value, json};
use stripe_double::{BillingSettings, Card};

use crate::rig::{Catalogue, Rig};
use crate::timeline::{DAY, period, starting, subscribe, time};

const SHOW_PAYMENT: &str = "expand[]=payments.data.payment.payment_intent&expand[]=confirmation_secret";

async fn rig() -> (Rig, Catalogue, String) {
    let rig = Rig::start(starting(BillingSettings::default())).await;
    let (plans, customer) = (rig.catalogue().await, rig.customer().await);
    (rig, plans, customer)
}

/// The payment intent of an invoice, as an expanded invoice and a call of its own show it.
async fn payment(rig: &Rig, invoice: &Value) -> Value {
    let id = invoice["id"].as_str().unwrap();
    let invoice = rig.client.get(&format!("/v1/invoices/{id}?{SHOW_PAYMENT}")).await;
    let payment = invoice["payments"]["data"][0]["payment"]["payment_intent"].clone();
    let path = format!("/v1/payment_intents/{}", payment["id"].as_str().unwrap());
    assert_eq!(rig.client.get(&path).await, payment);
    payment
}

async fn upgrade(rig: &Rig, subscription: &str, price: &str, behavior: &str) -> (u16, Value) {
    let path = format!("/v1/subscriptions/{subscription}");
    let item = rig.client.get(&path).await["items"]["data"][0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let change = format!("items[0][id]={item}&items[0][price]={price}&proration_behavior=always_invoice");
    let answer = rig
        .client
        .post(&path, &format!("{change}&payment_behavior={behavior}"))
        .await;
    (answer.status.as_u16(), answer.json().unwrap())
}

#[tokio::test]
async fn a_card_that_needs_an_action_pays_once_the_customer_confirms() {
    let (rig, plans, customer) = rig().await;
    let id = subscribe(&rig, &customer, &plans.pro).await;
    rig.control.set_card(&customer, Some(Card::NeedsAction)).unwrap();
    let (status, refused) = upgrade(&rig, &id, &plans.enterprise, "error_if_incomplete").await;
    assert_eq!(
        (status, &refused["error"]["code"]),
        (402, &json!("subscription_payment_intent_requires_action"))
    );
    assert_eq!(rig.control.invoices(&customer).len(), 1, "nothing changed");

    let (status, waiting) = upgrade(&rig, &id, &plans.enterprise, "pending_if_incomplete").await;
    assert!(status == 200 && waiting["pending_update"].is_object());
    let invoice = rig.control.invoices(&customer).pop().unwrap();
    let asked = payment(&rig, &invoice).await;
    assert_eq!(
        (&asked["status"], &asked["next_action"]["type"]),
        (&json!("requires_action"), &json!("use_stripe_sdk"))
    );
    assert!(asked["client_secret"].as_str().unwrap().contains("_secret_"));
    assert!(rig.kinds(0).contains(&"invoice.payment_action_required".to_owned()));

    let invoice_id = invoice["id"].as_str().unwrap();
    rig.control.confirm_payment(invoice_id, false).unwrap();
    assert_eq!(payment(&rig, &invoice).await["status"], "requires_payment_method");
    assert!(
        rig.control.confirm_payment(invoice_id, true).is_err(),
        "that attempt is over"
    );
    let again = rig.client.post(&format!("/v1/invoices/{invoice_id}/pay"), "").await;
    assert_eq!(
        (again.status.as_u16(), &again.json().unwrap()["error"]["code"]),
        (402, &json!("invoice_payment_intent_requires_action"))
    );
    rig.control.confirm_payment(invoice_id, true).unwrap();
    assert_eq!(payment(&rig, &invoice).await["status"], "succeeded");
    let upgraded = rig.control.object(&id).unwrap();
    assert!(upgraded["pending_update"].is_null());
    assert_eq!(upgraded["items"]["data"][0]["price"]["id"], plans.enterprise.as_str());
    assert_eq!(rig.control.violations(), [""; 0]);
}

#[tokio::test]
async fn a_renewal_that_needs_an_action_is_past_due_until_it_is_confirmed() {
    let (rig, plans, customer) = rig().await;
    let id = subscribe(&rig, &customer, &plans.pro).await;
    rig.control.set_card(&customer, Some(Card::NeedsAction)).unwrap();
    let end = period(&rig.control.object(&id).unwrap()).1;
    rig.control.advance_to(end + 3_600);
    assert_eq!(rig.control.object(&id).unwrap()["status"], "past_due");
    let invoice = rig.control.invoices(&customer).pop().unwrap();
    rig.control
        .confirm_payment(invoice["id"].as_str().unwrap(), true)
        .unwrap();
    assert_eq!(rig.control.object(&id).unwrap()["status"], "active");
    assert_eq!(rig.control.violations(), [""; 0]);
}

#[tokio::test]
async fn a_bank_debit_is_processing_for_days_and_then_pays_or_fails() {
    for (card, status, invoice_status) in [
        (Card::BankDebit, "active", "paid"),
        (Card::BankDebitFails, "past_due", "open"),
    ] {
        let (rig, plans, customer) = rig().await;
        let id = subscribe(&rig, &customer, &plans.pro).await;
        rig.control.set_card(&customer, Some(card)).unwrap();
        let end = period(&rig.control.object(&id).unwrap()).1;
        rig.control.advance_to(end + 3_600);
        let invoice = rig.control.invoices(&customer).pop().unwrap();
        assert_eq!(
            (&invoice["status"], &invoice["attempted"]),
            (&json!("open"), &json!(true))
        );
        assert_eq!(payment(&rig, &invoice).await["status"], "processing");
        assert_eq!(rig.control.object(&id).unwrap()["status"], "active");
        let pay = format!("/v1/invoices/{}/pay", invoice["id"].as_str().unwrap());
        assert_eq!(rig.client.post(&pay, "").await.status, 400, "not twice");
        // Another card does not change a debit that is under way.
        rig.control.set_card(&customer, Some(Card::Declines)).unwrap();
        rig.control.advance_to(end + 3_600 + 4 * DAY - 1);
        assert_eq!(payment(&rig, &invoice).await["status"], "processing");
        rig.control.advance_to(end + 3_600 + 4 * DAY);
        let invoice = rig.control.object(invoice["id"].as_str().unwrap()).unwrap();
        assert_eq!(invoice["status"], invoice_status);
        assert_eq!(rig.control.object(&id).unwrap()["status"], status);
        assert_eq!(rig.control.violations(), [""; 0]);
    }
}

#[tokio::test]
async fn a_first_payment_by_bank_debit_keeps_the_subscription_incomplete() {
    for (card, status) in [
        (Card::BankDebit, "active"),
        (Card::BankDebitFails, "incomplete_expired"),
    ] {
        let (rig, plans, customer) = rig().await;
        rig.control.set_card(&customer, Some(card)).unwrap();
        let id = subscribe(&rig, &customer, &plans.pro).await;
        rig.control.advance_by(2 * DAY);
        assert_eq!(rig.control.object(&id).unwrap()["status"], "incomplete");
        rig.control.advance_by(2 * DAY);
        assert_eq!(rig.control.object(&id).unwrap()["status"], status);
        assert_eq!(rig.control.violations(), [""; 0]);
    }
}

#[tokio::test]
async fn a_pending_update_does_not_outlive_its_period() {
    let (rig, plans, customer) = rig().await;
    let id = subscribe(&rig, &customer, &plans.pro).await;
    let end = period(&rig.control.object(&id).unwrap()).1;
    rig.control.advance_to(end - 20 * 3_600);
    rig.control.set_card(&customer, Some(Card::Declines)).unwrap();
    let (_, waiting) = upgrade(&rig, &id, &plans.enterprise, "pending_if_incomplete").await;
    assert_eq!(time(&waiting["pending_update"], "expires_at"), end);
    rig.control.set_card(&customer, Some(Card::Ok)).unwrap();
    rig.control.advance_to(end);
    let renewed = rig.control.object(&id).unwrap();
    assert!(renewed["pending_update"].is_null());
    assert_eq!(renewed["items"]["data"][0]["price"]["id"], plans.pro.as_str());
    let invoices = rig.control.invoices(&customer);
    let statuses: Vec<_> = invoices
        .iter()
        .map(|invoice| invoice["status"].as_str().unwrap())
        .collect();
    assert_eq!(statuses, ["paid", "void", "draft"]);
    assert_eq!(rig.control.violations(), [""; 0]);
}

#[tokio::test]
async fn an_attached_card_pays_once_it_is_the_default() {
    let (rig, plans, customer) = rig().await;
    let id = subscribe(&rig, &customer, &plans.pro).await;
    let attach = async |card: &str| {
        let path = format!("/v1/payment_methods/{card}/attach");
        rig.client.id(&path, &format!("customer={customer}")).await
    };
    let upgrades = async |price: &str| upgrade(&rig, &id, price, "error_if_incomplete").await.0;
    let declines = attach("pm_card_chargeCustomerFail").await;
    let default = |card: &str| format!("invoice_settings[default_payment_method]={card}");
    let path = format!("/v1/customers/{customer}");
    rig.client.ok(&path, &default(&declines)).await;
    assert_eq!(upgrades(&plans.enterprise).await, 402);
    // The subscription's own card comes first.
    let works = attach("pm_card_visa").await;
    let path = format!("/v1/subscriptions/{id}");
    let changed = rig.client.ok(&path, &format!("default_payment_method={works}")).await;
    assert_eq!(changed["default_payment_method"], works.as_str());
    assert_eq!(upgrades(&plans.enterprise).await, 200);
    let foreign = rig.client.post(&path, "default_payment_method=pm_other").await;
    assert_eq!(foreign.status, 400);
    assert_eq!(rig.control.violations(), [""; 0]);
}
