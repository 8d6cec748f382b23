//! Refunds and disputes.

use serde_json::json;
use stripe_double::BillingSettings;

use crate::rig::Rig;
use crate::timeline::{starting, subscribe};

#[tokio::test]
async fn a_refund_names_its_charge_and_its_payment_names_the_invoice() {
    let rig = Rig::start(starting(BillingSettings::default())).await;
    let (plans, customer) = (rig.catalogue().await, rig.customer().await);
    subscribe(&rig, &customer, &plans.pro).await;
    let invoice = rig.control.invoices(&customer).pop().unwrap();
    let path = format!("/v1/invoice_payments?invoice={}", invoice["id"].as_str().unwrap());
    let payment = rig.client.get(&path).await["data"][0]["payment"]["payment_intent"].clone();
    let payment = payment.as_str().unwrap();
    let before = rig.control.events().len();
    let refund = rig
        .client
        .ok(
            "/v1/refunds",
            &format!("payment_intent={payment}&amount=900&reason=duplicate"),
        )
        .await;
    assert_eq!(
        (&refund["amount"], &refund["status"]),
        (&json!(900), &json!("succeeded"))
    );
    assert_eq!(
        (&refund["customer"], &refund["reason"]),
        (&json!(customer), &json!("duplicate"))
    );
    assert_eq!(rig.kinds(before), ["refund.created", "charge.refunded"]);
    let charge = format!("/v1/charges/{}", refund["charge"].as_str().unwrap());
    let shown = rig.client.get(&charge).await;
    assert_eq!(
        (&shown["amount_refunded"], &shown["refunded"]),
        (&json!(900), &json!(false))
    );
    let too_much = rig
        .client
        .post("/v1/refunds", &format!("payment_intent={payment}&amount=2001"))
        .await;
    assert_eq!(too_much.status, 400);
    // The rest, by its charge.
    let rest = format!("charge={}", refund["charge"].as_str().unwrap());
    assert_eq!(rig.client.ok("/v1/refunds", &rest).await["amount"], 2_000);
    assert_eq!(rig.client.get(&charge).await["refunded"], true);
    let by_payment = format!("/v1/invoice_payments?payment[type]=payment_intent&payment[payment_intent]={payment}");
    assert_eq!(rig.client.get(&by_payment).await["data"][0]["invoice"], invoice["id"]);
    let other = "/v1/invoice_payments?payment[type]=payment_intent&payment[payment_intent]=pi_other";
    assert_eq!(rig.client.get(other).await["data"], json!([]));
    assert_eq!(rig.control.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn a_disputed_payment_cannot_be_refunded_and_the_bank_decides() {
    let rig = Rig::start(starting(BillingSettings::default())).await;
    let (plans, customer) = (rig.catalogue().await, rig.customer().await);
    subscribe(&rig, &customer, &plans.pro).await;
    let invoice = rig.control.invoices(&customer).pop().unwrap();
    let before = rig.control.events().len();
    let dispute = rig.control.dispute_invoice(invoice["id"].as_str().unwrap()).unwrap();
    let path = format!("/v1/disputes/{dispute}?expand[]=charge");
    let shown = rig.client.get(&path).await;
    assert_eq!(
        (&shown["status"], &shown["amount"], &shown["charge"]["customer"]),
        (&json!("needs_response"), &invoice["total"], &json!(customer))
    );
    let refund = format!("payment_intent={}", shown["payment_intent"].as_str().unwrap());
    let refused = rig.client.post("/v1/refunds", &refund).await;
    assert_eq!(refused.status, 400);
    rig.control.lose_dispute(&dispute).unwrap();
    assert_eq!(rig.client.get(&path).await["status"], "lost");
    rig.control.win_dispute(&dispute).unwrap();
    assert_eq!(rig.client.get(&path).await["status"], "won");
    let closed = "charge.dispute.closed";
    assert_eq!(rig.kinds(before), ["charge.dispute.created", closed, closed]);
    assert_eq!(rig.control.violations(), Vec::<String>::new());
}
