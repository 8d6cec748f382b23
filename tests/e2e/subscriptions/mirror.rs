//! Invoices are copied from Stripe. Whoever reads them does not wait for Stripe.

use billing_worker::webhook::comparison;
use devstack::stripe_double::Card;
use http::Method;
use serde_json::{Value, json};

use super::{
    rig::{DAY_S, Rig, Subscriber},
    scopes::routes,
};

/// The account's invoices as its owner sees them, newest first.
async fn shown(rig: &Rig, who: &Subscriber) -> Vec<Value> {
    rig.get(who, "invoices?limit=100").await["items"]
        .as_array()
        .unwrap()
        .clone()
}

/// What is shown of an invoice and of its lines.
fn parts(invoice: &Value, lines: &[Value], of_stripe: bool) -> Value {
    let cents = |name: &str| match of_stripe {
        true => invoice[name].clone(),
        false => invoice[format!("{name}_cents")].clone(),
    };
    let mut amounts = ["total", "amount_due", "amount_paid", "amount_remaining", "subtotal"].map(cents);
    if invoice["status"] == "void" {
        // Stripe says what it asked for, and we say that nobody has to pay it.
        assert!(of_stripe || amounts[3] == 0, "{invoice}");
        amounts[3] = Value::Null;
    }
    let amount = if of_stripe { "amount" } else { "amount_cents" };
    let lines = lines
        .iter()
        .map(|line| json!([line["description"], line["quantity"], line[amount]]));
    json!({
        "id": invoice["id"], "number": invoice["number"], "status": invoice["status"], "page": invoice["hosted_invoice_url"],
        "amounts": amounts,
        "lines": lines.collect::<Vec<_>>(),
    })
}

/// Asserts that the account's owner sees all invoices as Stripe has them.
pub(super) async fn assert_invoices(rig: &Rig, who: &Subscriber) {
    let mut theirs = Vec::new();
    for customer in rig.customers(who) {
        for invoice in rig.control().invoices(&customer) {
            theirs.push(parts(&invoice, invoice["lines"]["data"].as_array().unwrap(), true));
        }
    }
    let mut ours = Vec::new();
    for invoice in shown(rig, who).await {
        let details = rig
            .get(who, &format!("invoices/{}", invoice["id"].as_str().unwrap()))
            .await;
        ours.push(parts(&details, details["lines"].as_array().unwrap(), false));
    }
    let by_id = |a: &Value, b: &Value| a["id"].as_str().cmp(&b["id"].as_str());
    theirs.sort_by(by_id);
    ours.sort_by(by_id);
    assert_eq!(ours, theirs);
}

/// How often Stripe was asked for a list of invoices since the requests were cleared, and for anything.
fn calls(rig: &Rig) -> (usize, usize) {
    let requests = rig.control().requests();
    let lists = requests.iter().filter(|request| request.path == "/v1/invoices");
    (lists.count(), requests.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_get_calls_stripe() {
    let rig = Rig::start().await;
    rig.listen();
    let ada = rig.subscribed("ada", "pro").await;
    let id = shown(&rig, &ada).await[0]["id"].as_str().unwrap().to_owned();
    rig.control().clear_requests();
    let reads = routes().into_iter().filter(|(method, _)| method == Method::GET);
    let mut paths: Vec<String> = reads.map(|(_, path)| path.replace("{id}", &id)).collect();
    assert!(paths.len() >= 5, "{paths:?}");
    paths.push(format!("/billing/invoices?limit=1&after={id}"));
    paths.push("/billing/invoices/in_unknown".to_owned());
    for path in &paths {
        let answer = rig.http.get(&format!("{}{path}", rig.url), &ada.key).await.unwrap();
        let expected = if path.ends_with("in_unknown") { 404 } else { 200 };
        assert_eq!(answer.status.as_u16(), expected, "{path}");
    }
    assert_eq!(calls(&rig), (0, 0), "{:?}", rig.control().requests());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invoice_is_shown_after_its_event_and_changes_with_it() {
    let rig = Rig::start().await;
    rig.listen();
    let ada = rig.subscriber("ada").await;
    assert_eq!(shown(&rig, &ada).await, Vec::<Value>::new());
    rig.check_out(&ada, "pro").await;
    rig.settle().await;
    let customer = rig.customers(&ada).remove(0);
    assert_eq!(shown(&rig, &ada).await[0]["status"], "paid");

    // A draft, then an invoice that is not paid, then a paid one.
    rig.control().set_card(&customer, Some(Card::Declines)).unwrap();
    rig.turn_to(rig.period(&ada).await.end + 60);
    rig.settle().await;
    let draft = shown(&rig, &ada).await.remove(0);
    assert_eq!((&draft["status"], &draft["number"]), (&json!("draft"), &Value::Null));
    assert_invoices(&rig, &ada).await;
    rig.turn_by(7_200);
    rig.settle().await;
    let open = shown(&rig, &ada).await.remove(0);
    assert_eq!(
        (&open["id"], &open["status"], &open["amount_paid_cents"]),
        (&draft["id"], &json!("open"), &json!(0))
    );
    assert!(
        open["hosted_invoice_url"].as_str().unwrap().starts_with("http"),
        "{open}"
    );
    assert_invoices(&rig, &ada).await;
    rig.control().pay_invoice(open["id"].as_str().unwrap()).unwrap();
    rig.settle().await;
    let paid = shown(&rig, &ada).await.remove(0);
    assert_eq!(
        (&paid["status"], &paid["amount_paid_cents"]),
        (&json!("paid"), &json!(2_900))
    );
    assert_invoices(&rig, &ada).await;

    // That of a change is shown at once, without an event.
    rig.control().set_card(&customer, Some(Card::Ok)).unwrap();
    rig.turn_by(DAY_S);
    rig.post(&ada, "upgrade", json!({ "tier": "enterprise" }))
        .await
        .ok()
        .unwrap();
    assert_eq!(shown(&rig, &ada).await.len(), 3);
    assert_invoices(&rig, &ada).await;

    // A draft that is deleted in Stripe is gone here too.
    let made = rig
        .call_stripe(Method::POST, "/v1/invoices", &format!("customer={customer}"))
        .await;
    rig.settle().await;
    assert_eq!(shown(&rig, &ada).await[0]["id"], made["id"]);
    let path = format!("/v1/invoices/{}", made["id"].as_str().unwrap());
    rig.call_stripe(Method::DELETE, &path, "").await;
    rig.settle().await;
    assert_eq!(shown(&rig, &ada).await.len(), 3);
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_of_invoices_is_read_in_pages() {
    let rig = Rig::start().await;
    rig.listen();
    let (ada, ben) = (rig.subscribed("ada", "pro").await, rig.subscribed("ben", "pro").await);
    let customer = rig.customers(&ada).remove(0);
    // Several of one second.
    for _ in 0..4 {
        rig.call_stripe(Method::POST, "/v1/invoices", &format!("customer={customer}"))
            .await;
    }
    rig.end_period(&ada).await;
    let all = shown(&rig, &ada).await;
    assert_eq!(all.len(), 6);
    let created: Vec<_> = all
        .iter()
        .map(|invoice| invoice["created_at"].as_str().unwrap())
        .collect();
    assert!(created.is_sorted_by(|newer, older| newer >= older), "{created:?}");
    for limit in 1..=7 {
        let (mut read, mut path) = (Vec::new(), format!("invoices?limit={limit}"));
        loop {
            let page = rig.get(&ada, &path).await;
            let items = page["items"].as_array().unwrap();
            assert!((1..=limit).contains(&items.len()), "{page}");
            read.extend(items.iter().cloned());
            match page["next"].as_str() {
                Some(next) => path = format!("invoices?limit={limit}&after={next}"),
                None => break,
            }
        }
        assert_eq!(read, all, "{limit}");
    }
    let theirs = shown(&rig, &ben).await[0]["id"].as_str().unwrap().to_owned();
    let url = format!("{}/billing/invoices?after={theirs}", rig.url);
    let refused = rig.http.get(&url, &ada.key).await.unwrap();
    assert_eq!(
        (refused.status.as_u16(), &refused.json().unwrap()["error"]),
        (400, &json!("invalid_request"))
    );
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_comparison_copies_invoices_that_no_event_reported() {
    let rig = Rig::start().await;
    // No event arrives.
    let ada = rig.subscriber("ada").await;
    rig.check_out(&ada, "pro").await;
    let customer = rig.customers(&ada).remove(0);
    let mut made = Vec::new();
    for _ in 0..44 {
        let form = format!("customer={customer}");
        made.push(rig.call_stripe(Method::POST, "/v1/invoices", &form).await["id"].clone());
        rig.turn_by(1);
    }
    rig.control().clear_requests();
    let compared = comparison::run(&rig.billing).await.unwrap();
    assert_eq!((compared.accounts, compared.mended, compared.failed), (1, 1, 0));
    assert_invoices(&rig, &ada).await;
    assert_eq!(calls(&rig).0, 3, "45 invoices");

    // The next one reads the latest page, and older ones that are not settled.
    let (oldest, latest) = (made[0].as_str().unwrap(), made[43].as_str().unwrap());
    for id in [oldest, latest] {
        rig.call_stripe(Method::POST, &format!("/v1/invoices/{id}/finalize"), "")
            .await;
    }
    rig.control().clear_requests();
    comparison::run(&rig.billing).await.unwrap();
    let (lists, all) = calls(&rig);
    // The list, its lines, the older drafts and their lines, and the subscription.
    assert!(lists == 1 && all < 90, "{lists} {all}");
    assert_invoices(&rig, &ada).await;
    rig.assert_valid();
}
