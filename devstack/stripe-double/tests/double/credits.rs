//! Credit notes, the customer's balance, and amounts below the minimum charge.

use http::Method;
use serde_json::{Value, json};
use stripe_double::{BillingSettings, Card};

use crate::rig::{Catalogue, Rig};
use crate::timeline::{period, starting, subscribe, time};

async fn rig() -> (Rig, Catalogue, String) {
    let rig = Rig::start(starting(BillingSettings::default())).await;
    let (plans, customer) = (rig.catalogue().await, rig.customer().await);
    (rig, plans, customer)
}

/// (amount, type, ending balance), oldest first.
async fn balance(rig: &Rig, customer: &str) -> Vec<(i64, String, i64)> {
    let path = format!("/v1/customers/{customer}/balance_transactions");
    let list = rig.client.get(&path).await;
    let row = |row: &Value| {
        let kind = row["type"].as_str().unwrap().to_owned();
        (time(row, "amount"), kind, time(row, "ending_balance"))
    };
    list["data"].as_array().unwrap().iter().rev().map(row).collect()
}

#[tokio::test]
async fn a_credit_note_of_a_paid_invoice_lowers_the_next_one() {
    let (rig, plans, customer) = rig().await;
    let id = subscribe(&rig, &customer, &plans.pro).await;
    let end = period(&rig.control.object(&id).unwrap()).1;
    let invoice = rig.control.invoices(&customer).pop().unwrap();
    let (invoice_id, line) = (
        invoice["id"].as_str().unwrap(),
        invoice["lines"]["data"][0]["id"].as_str().unwrap(),
    );
    let note = |amount: i64| {
        format!(
            "invoice={invoice_id}&lines[0][type]=invoice_line_item&lines[0][invoice_line_item]={line}&lines[0][amount]={amount}"
        )
    };
    let preview = rig
        .client
        .get(&format!("/v1/credit_notes/preview?{}&credit_amount=750", note(750)))
        .await;
    assert_eq!(
        (&preview["total"], &preview["type"]),
        (&json!(750), &json!("post_payment"))
    );
    assert_eq!(
        rig.client.get("/v1/credit_notes").await["data"],
        json!([]),
        "only a preview"
    );
    let unbalanced = rig.client.post("/v1/credit_notes", &note(750)).await;
    assert_eq!(unbalanced.status, 400, "the credit must go somewhere");
    let body = format!("{}&credit_amount=750&metadata[carry]=c1", note(750));
    let created = rig.client.ok("/v1/credit_notes", &body).await;
    assert_eq!(created["status"], "issued");
    assert_eq!(created["metadata"]["carry"], "c1");
    let found = rig
        .client
        .get(&format!(
            "/v1/credit_notes?invoice={invoice_id}&expand[]=data.customer_balance_transaction"
        ))
        .await;
    let transaction = &found["data"][0]["customer_balance_transaction"];
    assert_eq!(
        (&transaction["amount"], &transaction["credit_note"]),
        (&json!(-750), &created["id"])
    );
    let again = format!("{}&credit_amount=2200", note(2_200));
    assert_eq!(
        rig.client.post("/v1/credit_notes", &again).await.status,
        400,
        "no more than the line"
    );
    let voided = format!("/v1/credit_notes/{}/void", created["id"].as_str().unwrap());
    assert_eq!(rig.client.post(&voided, "").await.status, 400, "the invoice is paid");

    rig.control.advance_to(end + 3_600);
    let next = rig.control.invoices(&customer).pop().unwrap();
    assert_eq!((time(&next, "total"), time(&next, "amount_paid")), (2_900, 2_150));
    let expected = [(-750, "credit_note", -750), (750, "applied_to_invoice", 0)];
    assert_eq!(
        balance(&rig, &customer).await,
        expected.map(|(a, kind, e)| (a, kind.to_owned(), e))
    );
    let invoice = rig.control.object(invoice_id).unwrap();
    assert_eq!(time(&invoice, "post_payment_credit_notes_amount"), 750);
    assert!(rig.kinds(0).contains(&"credit_note.created".to_owned()));
    assert_eq!(rig.control.violations(), [""; 0]);
}

#[tokio::test]
async fn a_credit_note_of_an_open_invoice_lowers_what_is_due_until_it_is_void() {
    let (rig, plans, customer) = rig().await;
    let id = subscribe(&rig, &customer, &plans.pro).await;
    rig.control.set_card(&customer, Some(Card::Declines)).unwrap();
    let end = period(&rig.control.object(&id).unwrap()).1;
    rig.control.advance_to(end + 3_600);
    let invoice = rig.control.invoices(&customer).pop().unwrap();
    let id = invoice["id"].as_str().unwrap();
    let due = || time(&rig.control.object(id).unwrap(), "amount_remaining");
    let note = rig
        .client
        .id("/v1/credit_notes", &format!("invoice={id}&amount=900"))
        .await;
    assert_eq!(due(), 2_000);
    let voided = rig.client.ok(&format!("/v1/credit_notes/{note}/void"), "").await;
    assert_eq!((&voided["status"], due()), (&json!("void"), 2_900));
    rig.client
        .ok("/v1/credit_notes", &format!("invoice={id}&amount=2900"))
        .await;
    let invoice = rig.control.object(id).unwrap();
    assert_eq!((&invoice["status"], time(&invoice, "amount_paid")), (&json!("paid"), 0));
    assert!(balance(&rig, &customer).await.is_empty());
    assert_eq!(rig.control.violations(), [""; 0]);
}

#[tokio::test]
async fn amounts_below_the_minimum_wait_for_the_next_invoice() {
    let (rig, plans, customer) = rig().await;
    let id = subscribe(&rig, &customer, &plans.calls).await;
    rig.client
        .meter(&customer, "a", 1_042, rig.control.now())
        .await
        .ok()
        .unwrap();
    let end = period(&rig.control.object(&id).unwrap()).1;
    rig.control.advance_to(end + 3_600);
    let small = rig.control.invoices(&customer).pop().unwrap();
    assert_eq!(
        (&small["status"], time(&small, "total"), time(&small, "amount_due")),
        (&json!("paid"), 42, 0)
    );
    assert_eq!(
        balance(&rig, &customer).await,
        [(42, "invoice_too_small".to_owned(), 42)]
    );
    rig.client
        .meter(&customer, "b", 1_008, rig.control.now())
        .await
        .ok()
        .unwrap();
    let next = period(&rig.control.object(&id).unwrap()).1;
    rig.control.advance_to(next + 3_600);
    let next = rig.control.invoices(&customer).pop().unwrap();
    assert_eq!((time(&next, "total"), time(&next, "amount_paid")), (8, 50));
    assert_eq!(rig.control.violations(), [""; 0]);
}

#[tokio::test]
async fn every_change_of_a_balance_is_recorded_and_has_the_customers_currency() {
    let (rig, plans, customer) = rig().await;
    let path = format!("/v1/customers/{customer}");
    rig.client.ok(&path, "balance=-500").await;
    let transactions = format!("{path}/balance_transactions");
    let adjust = "amount=-1000&currency=usd&description=Goodwill";
    let adjusted = rig.client.ok(&transactions, adjust).await;
    assert_eq!(
        (&adjusted["type"], &adjusted["ending_balance"]),
        (&json!("adjustment"), &json!(-1_500))
    );
    assert_eq!(
        rig.client.post(&transactions, "amount=-1&currency=eur").await.status,
        400
    );
    let product = rig.client.id("/v1/products", "name=Euro").await;
    let euro = format!("product={product}&currency=eur&recurring[interval]=month&unit_amount=2900");
    let euro = rig.client.id("/v1/prices", &euro).await;
    let refused = rig
        .client
        .post(
            "/v1/subscriptions",
            &format!("customer={customer}&items[0][price]={euro}"),
        )
        .await;
    assert_eq!(refused.status, 400, "the balance is in dollars");
    let id = subscribe(&rig, &customer, &plans.pro).await;
    rig.client
        .send(Method::DELETE, &format!("/v1/subscriptions/{id}"), "", "")
        .await
        .unwrap()
        .ok()
        .unwrap();
    let kinds: Vec<_> = balance(&rig, &customer)
        .await
        .into_iter()
        .map(|(_, kind, _)| kind)
        .collect();
    assert_eq!(kinds, ["adjustment", "adjustment", "applied_to_invoice"]);
    assert_eq!(rig.control.violations(), [""; 0]);
}
