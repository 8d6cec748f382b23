//! Credit notes, refunds and disputes: made in Stripe's dashboard, or by banks.

use billing_worker::{
    accounts::status::{self, AccountStatus},
    subscriptions::refresh,
    webhook::comparison,
};
use devstack::stripe_double::WebhookBehavior;
use http::Method;
use serde_json::{Value, json};

use super::{
    findings::{findings, id, one, open},
    rig::{DAY_S, Rig, Subscriber},
};

/// The account's latest invoice as its owner sees it.
async fn invoice(rig: &Rig, who: &Subscriber) -> Value {
    let latest = id(&rig.get(who, "invoices?limit=1").await["items"][0]);
    rig.get(who, &format!("invoices/{latest}")).await
}

/// The payment of the invoice.
async fn payment(rig: &Rig, invoice: &Value) -> String {
    let path = format!("/v1/invoice_payments?invoice={}", id(invoice));
    let payments = rig.call_stripe(Method::GET, &path, "").await;
    payments["data"][0]["payment"]["payment_intent"]
        .as_str()
        .unwrap()
        .to_owned()
}

/// Action, author and status of the entries about an object, oldest first.
async fn audited(rig: &Rig, who: &Subscriber, subject: &str) -> Vec<(String, String)> {
    sqlx::query_as(
        "select action, coalesce(details->>'status', '') from audit_log where account_id = $1 and subject = $2 order by id",
    )
    .bind(who.account.0)
    .bind(subject)
    .fetch_all(&rig.pool)
    .await
    .unwrap()
}

fn entry(action: &str, status: &str) -> (String, String) {
    (action.to_owned(), status.to_owned())
}

async fn account_status(rig: &Rig, who: &Subscriber) -> String {
    sqlx::query_scalar("select status from accounts where id = $1")
        .bind(who.account.0)
        .fetch_one(&rig.pool)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refund_and_a_credit_note_made_in_the_dashboard_are_shown_audited_and_alarmed_once() {
    let rig = Rig::start().await;
    rig.listen();
    let ada = rig.subscribed("ada", "pro").await;
    let paid = invoice(&rig, &ada).await;
    assert_eq!((&paid["refunds"], &paid["credit_notes"]), (&json!([]), &json!([])));
    let form = format!(
        "payment_intent={}&amount=900&reason=duplicate",
        payment(&rig, &paid).await
    );
    let refund = id(&rig.call_stripe(Method::POST, "/v1/refunds", &form).await);
    let form = format!("invoice={}&amount=500&credit_amount=500&reason=order_change", id(&paid));
    let note = id(&rig.call_stripe(Method::POST, "/v1/credit_notes", &form).await);
    rig.settle().await;

    let shown = invoice(&rig, &ada).await;
    let [shown_refund, shown_note] = ["refunds", "credit_notes"].map(|kind| {
        let [one] = shown[kind].as_array().unwrap().as_slice() else {
            panic!("{shown}")
        };
        one.clone()
    });
    assert_eq!(
        (&shown_refund["id"], &shown_refund["amount_cents"]),
        (&json!(refund), &json!(900))
    );
    assert_eq!(
        (&shown_refund["status"], &shown_refund["reason"]),
        (&json!("succeeded"), &json!("duplicate"))
    );
    assert_eq!(
        (&shown_note["id"], &shown_note["total_cents"]),
        (&json!(note), &json!(500))
    );
    assert_eq!(
        (&shown_note["status"], &shown_note["reason"]),
        (&json!("issued"), &json!("order_change"))
    );
    assert_eq!(
        audited(&rig, &ada, &refund).await,
        [entry("stripe.refund", "succeeded")]
    );
    assert_eq!(
        audited(&rig, &ada, &note).await,
        [entry("stripe.credit_note", "issued")]
    );
    let found = findings(&rig).await;
    assert!(
        found[0].text.contains("credits 5.00 usd") && found[0].text.contains(&id(&paid)),
        "{found:?}"
    );
    let kinds = || async { open(&rig).await };
    let both = [one("credit_note", &note), one("refund", &refund)].concat();
    assert_eq!(kinds().await, both);

    // Each event again: nothing new.
    for event in rig.control().events() {
        rig.control().deliver(&event.id).await;
    }
    sqlx::query("update webhook_events set state = 'received', done_at = null where state = 'done'")
        .execute(&rig.pool)
        .await
        .unwrap();
    rig.settle().await;
    assert_eq!(
        audited(&rig, &ada, &refund).await.len() + audited(&rig, &ada, &note).await.len(),
        2
    );
    let again = findings(&rig).await;
    assert_eq!(again[0].first_seen_at, found[0].first_seen_at);
    // The owner of another account does not see them.
    let bob = rig.subscribed("bob", "pro").await;
    assert_eq!(invoice(&rig, &bob).await["refunds"], json!([]));

    // Nothing is left to decide.
    rig.turn_by(8 * DAY_S);
    refresh::refresh(&rig.billing, ada.account).await.unwrap();
    assert_eq!(open(&rig).await, []);
    assert_eq!(rig.subscription(&ada).await["tier"], "pro");
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_dispute_suspends_if_the_setting_says_so() {
    let mut rig = Rig::start().await;
    rig.listen();
    let (ada, bob) = (rig.subscribed("ada", "pro").await, rig.subscribed("bob", "pro").await);
    let dispute = rig.control().dispute_invoice(&id(&invoice(&rig, &ada).await)).unwrap();
    rig.settle().await;
    assert_eq!(open(&rig).await, one("dispute", &dispute));
    let text = findings(&rig).await.remove(0).text;
    assert!(text.contains("29.00 usd") && text.contains("answered until"), "{text}");
    rig.turn_by(8 * DAY_S);
    refresh::refresh(&rig.billing, ada.account).await.unwrap();
    assert_eq!(open(&rig).await, one("dispute", &dispute), "the bank has not decided");
    // By default an operator decides.
    rig.control().lose_dispute(&dispute).unwrap();
    rig.settle().await;
    assert_eq!(open(&rig).await, one("dispute", &dispute));
    assert_eq!(account_status(&rig, &ada).await, "active");
    let entries = [
        entry("stripe.dispute", "needs_response"),
        entry("stripe.dispute", "lost"),
    ];
    assert_eq!(audited(&rig, &ada, &dispute).await, entries);
    rig.turn_by(8 * DAY_S);
    refresh::refresh(&rig.billing, ada.account).await.unwrap();
    assert_eq!(open(&rig).await, []);

    rig.suspend_for_lost_disputes().await;
    let dispute = rig.control().dispute_invoice(&id(&invoice(&rig, &bob).await)).unwrap();
    rig.settle().await;
    assert_eq!(account_status(&rig, &bob).await, "active");
    rig.control().lose_dispute(&dispute).unwrap();
    rig.settle().await;
    assert_eq!(account_status(&rig, &bob).await, "suspended");
    assert_eq!(account_status(&rig, &ada).await, "active", "lost before");
    let subject = bob.account.to_string();
    assert_eq!(
        audited(&rig, &bob, &subject).await.last(),
        Some(&entry("account.suspend", ""))
    );
    // What the operator decides then stays.
    status::set_status(&rig.billing.admin, bob.account, AccountStatus::Active)
        .await
        .unwrap();
    sqlx::query("update webhook_events set state = 'received', done_at = null where state = 'done'")
        .execute(&rig.pool)
        .await
        .unwrap();
    rig.settle().await;
    assert_eq!(account_status(&rig, &bob).await, "active");
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispute_that_is_won_is_no_finding_any_more() {
    let mut rig = Rig::start().await;
    rig.suspend_for_lost_disputes().await;
    rig.listen();
    let ada = rig.subscribed("ada", "pro").await;
    let dispute = rig.control().dispute_invoice(&id(&invoice(&rig, &ada).await)).unwrap();
    rig.settle().await;
    assert_eq!(open(&rig).await, one("dispute", &dispute));
    rig.control().win_dispute(&dispute).unwrap();
    rig.settle().await;
    assert_eq!(open(&rig).await, []);
    assert_eq!(account_status(&rig, &ada).await, "active");
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_event_reported_is_found_by_the_daily_comparison() {
    let rig = Rig::start().await;
    rig.listen();
    let ada = rig.subscribed("ada", "pro").await;
    let paid = invoice(&rig, &ada).await;
    comparison::run(&rig.billing).await.unwrap();
    rig.control().set_webhooks(WebhookBehavior {
        hold: true,
        ..WebhookBehavior::default()
    });
    let form = format!("payment_intent={}&amount=900", payment(&rig, &paid).await);
    let refund = id(&rig.call_stripe(Method::POST, "/v1/refunds", &form).await);
    let form = format!("invoice={}&amount=500&credit_amount=500", id(&paid));
    let note = id(&rig.call_stripe(Method::POST, "/v1/credit_notes", &form).await);
    let compared = comparison::run(&rig.billing).await.unwrap();
    assert_eq!((compared.failed, compared.reversals), (0, 2));
    let shown = invoice(&rig, &ada).await;
    assert_eq!(
        (&shown["refunds"][0]["id"], &shown["credit_notes"][0]["id"]),
        (&json!(refund), &json!(note))
    );
    assert_eq!(comparison::run(&rig.billing).await.unwrap().reversals, 0);
    rig.assert_valid();
}
