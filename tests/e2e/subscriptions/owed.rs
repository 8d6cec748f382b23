//! A 402 follows from an invoice that is owed, names it, and ends with it.

use billing_worker::accounts::status::{self, AccountStatus};
use devstack::stripe_double::{AfterDunning, Card, FaultKind, FaultRule};
use http::Method;
use serde_json::{Value, json};

use super::{
    mirror::assert_invoices,
    rig::{DAY_S, GRACE_S, Rig, Subscriber},
};

/// A subscriber to Pro, and its customer in Stripe.
async fn pro() -> (Rig, Subscriber, String) {
    let rig = Rig::start().await;
    rig.control().set_dunning(vec![30], AfterDunning::Unpaid);
    rig.listen();
    let ada = rig.subscribed("ada", "pro").await;
    let customer = rig.customers(&ada).remove(0);
    (rig, ada, customer)
}

/// The invoices with this status in Stripe, oldest first.
pub(super) fn invoices(rig: &Rig, customer: &str, status: &str) -> Vec<Value> {
    let mut invoices = rig.control().invoices(customer);
    invoices.retain(|invoice| invoice["status"] == status);
    invoices
}

/// Status and problem of an upgrade to Enterprise.
async fn upgrade(rig: &Rig, who: &Subscriber) -> (u16, Value) {
    let answer = rig.post(who, "upgrade", json!({ "tier": "enterprise" })).await;
    (answer.status.as_u16(), answer.json().unwrap())
}

/// Plan, Stripe's status, and whether metered calls get a 402.
pub(super) async fn shown(rig: &Rig, who: &Subscriber) -> (String, String, bool) {
    let subscription = rig.subscription(who).await;
    let text = |field: &str| subscription[field].as_str().unwrap().to_owned();
    let payment_required = subscription["payment_required"].as_bool().unwrap();
    (text("tier"), text("status"), payment_required)
}

pub(super) fn is(plan: &str, status: &str, payment_required: bool) -> (String, String, bool) {
    (plan.to_owned(), status.to_owned(), payment_required)
}

/// Makes the upgrade in Stripe itself, so that nobody here knows that it failed.
async fn upgrade_in_stripe(rig: &Rig, customer: &str) {
    let subscription = rig.control().subscriptions(customer).remove(0);
    let prices = rig
        .call_stripe(Method::GET, "/v1/prices?lookup_keys[]=trendit_enterprise", "")
        .await;
    let form = format!(
        "items[0][id]={}&items[0][price]={}&payment_behavior=pending_if_incomplete&proration_behavior=always_invoice",
        subscription["items"]["data"][0]["id"].as_str().unwrap(),
        prices["data"][0]["id"].as_str().unwrap()
    );
    let path = format!("/v1/subscriptions/{}", subscription["id"].as_str().unwrap());
    let changed = rig.call_stripe(Method::POST, &path, &form).await;
    assert!(changed["pending_update"].is_object(), "{changed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn paying_what_is_owed_ends_the_402_whatever_stripes_status_says() {
    for end in ["paid", "void"] {
        let (rig, ada, customer) = pro().await;
        rig.control().set_card(&customer, Some(Card::Declines)).unwrap();
        rig.end_period(&ada).await;
        let owed = invoices(&rig, &customer, "open").remove(0);
        let id = owed["id"].as_str().unwrap();
        // An upgrade that an operator tries in Stripe, and that is not paid: its invoice is the latest one.
        upgrade_in_stripe(&rig, &customer).await;
        rig.turn_by(2 * DAY_S);
        rig.settle().await;
        assert_eq!(invoices(&rig, &customer, "void").len(), 1, "the upgrade has expired");

        // Until the grace period ends, and from then on.
        assert_eq!(shown(&rig, &ada).await, is("pro", "past_due", false));
        let finalized = owed["status_transitions"]["finalized_at"].as_i64().unwrap();
        rig.turn_to(finalized + GRACE_S);
        assert_eq!(shown(&rig, &ada).await, is("pro", "past_due", true));
        match end {
            "paid" => rig.control().pay_invoice(id).unwrap(),
            _ => {
                let path = format!("/v1/invoices/{id}/void");
                rig.call_stripe(Method::POST, &path, "").await;
            }
        }
        rig.settle().await;
        assert_eq!(
            invoices(&rig, &customer, "open"),
            Vec::<Value>::new(),
            "nothing is owed"
        );
        assert_eq!(rig.control().subscriptions(&customer)[0]["status"], "past_due", "{end}");
        for _ in 0..2 {
            assert_eq!(shown(&rig, &ada).await, is("pro", "past_due", false), "{end}");
            rig.turn_by(4 * DAY_S);
            rig.settle().await;
        }
        assert_invoices(&rig, &ada).await;
        rig.assert_valid();
    }
}

/// Ending the subscription does not end the debt.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_leaves_an_unpaid_invoice_behind_pays_it_before_the_next_subscription() {
    let (rig, ada, customer) = pro().await;
    rig.control().set_card(&customer, Some(Card::Declines)).unwrap();
    rig.end_period(&ada).await;
    let owed = invoices(&rig, &customer, "open").remove(0);
    rig.post(&ada, "cancel", json!({ "when": "now" })).await.ok().unwrap();
    rig.settle().await;
    assert_eq!(shown(&rig, &ada).await, is("free", "none", false));
    rig.control().set_card(&customer, Some(Card::Ok)).unwrap();
    for path in ["create-checkout-session", "subscriptions"] {
        let refused = rig.post(&ada, path, json!({ "tier": "pro" })).await;
        assert_eq!(refused.status.as_u16(), 402, "{path}");
        let problem = refused.json().unwrap();
        assert_eq!(
            (
                &problem["error"],
                &problem["invoice_id"],
                &problem["hosted_invoice_url"]
            ),
            (&json!("payment_required"), &owed["id"], &owed["hosted_invoice_url"]),
            "{path}"
        );
    }
    // Paid a moment ago: no event has reported it.
    rig.control().pay_invoice(owed["id"].as_str().unwrap()).unwrap();
    rig.check_out(&ada, "pro").await;
    rig.settle().await;
    assert_eq!(shown(&rig, &ada).await, is("pro", "active", false));
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_account_buys_nothing() {
    let (rig, ada, _) = pro().await;
    let bob = rig.subscriber("bob").await;
    for who in [&ada, &bob] {
        status::set_status(&rig.billing.admin, who.account, AccountStatus::Suspended)
            .await
            .unwrap();
    }
    for (who, path) in [
        (&bob, "create-checkout-session"),
        (&bob, "subscriptions"),
        (&ada, "upgrade"),
    ] {
        let refused = rig.post(who, path, json!({ "tier": "enterprise" })).await;
        assert_eq!(refused.status.as_u16(), 403, "{path}");
        assert_eq!(refused.json().unwrap()["error"], "account_suspended");
    }
    // It can leave.
    rig.post(&ada, "cancel", json!({})).await.ok().unwrap();
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_owes_an_invoice_pays_it_before_an_upgrade() {
    let (rig, ada, customer) = pro().await;
    rig.control().set_card(&customer, Some(Card::Declines)).unwrap();
    rig.end_period(&ada).await;
    let owed = invoices(&rig, &customer, "open").remove(0);
    let before = rig.control().invoices(&customer).len();
    rig.control().set_card(&customer, Some(Card::Ok)).unwrap();
    let (status, problem) = upgrade(&rig, &ada).await;
    assert_eq!(
        (status, &problem["error"]),
        (402, &json!("payment_required")),
        "{problem}"
    );
    assert_eq!(problem["invoice_id"], owed["id"]);
    assert_eq!(problem["hosted_invoice_url"], owed["hosted_invoice_url"]);
    assert_eq!(rig.control().invoices(&customer).len(), before, "nothing was tried");

    rig.control().pay_invoice(owed["id"].as_str().unwrap()).unwrap();
    assert_eq!(upgrade(&rig, &ada).await.0, 200);
    assert_eq!(shown(&rig, &ada).await, is("enterprise", "active", false));
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declined_upgrade_leaves_no_open_invoice() {
    let (rig, ada, customer) = pro().await;
    rig.control().set_card(&customer, Some(Card::Declines)).unwrap();
    let (status, problem) = upgrade(&rig, &ada).await;
    assert_eq!(
        (status, &problem["error"]),
        (402, &json!("payment_failed")),
        "{problem}"
    );
    assert_eq!(invoices(&rig, &customer, "open"), Vec::<Value>::new());
    assert_eq!(invoices(&rig, &customer, "void").len(), 1);
    assert_invoices(&rig, &ada).await;

    // Stripe did not answer when the invoice was voided: an event of the upgrade voids it.
    let fails = FaultRule::new(FaultKind::ServerError)
        .method("POST")
        .path("/v1/invoices/");
    rig.control().add_fault(fails);
    assert_eq!(upgrade(&rig, &ada).await.0, 402);
    assert_eq!(invoices(&rig, &customer, "open").len(), 1);
    rig.control().clear_faults();
    rig.settle().await;
    assert_eq!(invoices(&rig, &customer, "open"), Vec::<Value>::new());

    // The response of the upgrade was lost.
    let lost = FaultRule::new(FaultKind::ServerError)
        .method("POST")
        .path("/v1/subscriptions/");
    rig.control().add_fault(lost.after());
    assert_eq!(upgrade(&rig, &ada).await.0, 503);
    rig.control().clear_faults();
    rig.settle().await;
    assert_eq!(invoices(&rig, &customer, "open"), Vec::<Value>::new());

    // Nothing was charged, and the next attempt works.
    assert_eq!(invoices(&rig, &customer, "paid").len(), 1);
    rig.control().set_card(&customer, Some(Card::Ok)).unwrap();
    assert_eq!(upgrade(&rig, &ada).await.0, 200);
    rig.settle().await;
    assert_eq!(shown(&rig, &ada).await, is("enterprise", "active", false));
    assert_invoices(&rig, &ada).await;
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_invoice_of_an_upgrade_whose_worker_died_is_voided_and_no_other() {
    let (rig, ada, customer) = pro().await;
    rig.control().set_card(&customer, Some(Card::Declines)).unwrap();
    // Somebody tries an upgrade in Stripe: it is theirs.
    upgrade_in_stripe(&rig, &customer).await;
    rig.settle().await;
    assert_eq!(invoices(&rig, &customer, "open").len(), 1);
    rig.turn_by(2 * DAY_S);
    rig.settle().await;
    assert_eq!(invoices(&rig, &customer, "open"), Vec::<Value>::new(), "it has expired");
    // A worker dies right after the same call: the row says that an upgrade was sent.
    let begun = "update stripe_customers set upgrade_begun_at = now()";
    sqlx::query(begun).execute(&rig.pool).await.unwrap();
    upgrade_in_stripe(&rig, &customer).await;
    rig.settle().await;
    assert_eq!(invoices(&rig, &customer, "open"), Vec::<Value>::new());
    assert_eq!(shown(&rig, &ada).await, is("pro", "active", false));
    rig.turn_by(2 * DAY_S);
    rig.settle().await;
    let waits: i64 = sqlx::query_scalar("select count(*) from stripe_customers where upgrade_begun_at is not null")
        .fetch_one(&rig.pool)
        .await
        .unwrap();
    assert_eq!(waits, 0);
    assert_invoices(&rig, &ada).await;
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_that_needs_confirmation_can_be_finished() {
    for succeeds in [true, false] {
        let (rig, ada, customer) = pro().await;
        rig.control().set_card(&customer, Some(Card::NeedsAction)).unwrap();
        let (status, problem) = upgrade(&rig, &ada).await;
        assert_eq!(
            (status, &problem["error"]),
            (402, &json!("payment_action_required")),
            "{problem}"
        );
        let open = invoices(&rig, &customer, "open").remove(0);
        assert_eq!(problem["invoice_id"], open["id"]);
        assert_eq!(problem["hosted_invoice_url"], open["hosted_invoice_url"]);
        assert!(
            problem["client_secret"].as_str().unwrap().contains("_secret_"),
            "{problem}"
        );
        assert!(problem["expires_at"].is_string(), "{problem}");
        // It waits, whatever events come.
        rig.settle().await;
        assert_eq!(shown(&rig, &ada).await, is("pro", "active", false));
        assert_eq!(invoices(&rig, &customer, "open").len(), 1);

        rig.control()
            .confirm_payment(open["id"].as_str().unwrap(), succeeds)
            .unwrap();
        rig.settle().await;
        let plan = if succeeds { "enterprise" } else { "pro" };
        assert_eq!(shown(&rig, &ada).await, is(plan, "active", false));
        assert_eq!(invoices(&rig, &customer, "open"), Vec::<Value>::new());
        assert_eq!(invoices(&rig, &customer, "void").len(), usize::from(!succeeds));
        assert_invoices(&rig, &ada).await;
        rig.assert_valid();
    }
}

/// To pay its page later must not start a plan that the customer no longer wants.
#[tokio::test(flavor = "multi_thread")]
async fn a_later_decision_withdraws_an_upgrade_that_waits_for_its_payment() {
    for (path, body, expected) in [
        ("cancel", json!({}), is("pro", "active", false)),
        ("cancel", json!({ "when": "now" }), is("free", "none", false)),
        ("upgrade", json!({ "tier": "pro" }), is("pro", "active", false)),
        (
            "upgrade",
            json!({ "tier": "enterprise", "when": "period_end" }),
            is("pro", "active", false),
        ),
    ] {
        let (rig, ada, customer) = pro().await;
        rig.control().set_card(&customer, Some(Card::NeedsAction)).unwrap();
        let (_, problem) = upgrade(&rig, &ada).await;
        rig.settle().await;
        let pending = rig.subscription(&ada).await["pending_upgrade"].clone();
        let open = invoices(&rig, &customer, "open").remove(0);
        assert_eq!(
            pending,
            json!({ "tier": "enterprise", "invoice_id": open["id"], "hosted_invoice_url": open["hosted_invoice_url"],
                "expires_at": problem["expires_at"] })
        );

        rig.post(&ada, path, body.clone()).await.ok().unwrap();
        rig.settle().await;
        let id = open["id"].as_str().unwrap();
        assert!(rig.control().confirm_payment(id, true).is_err(), "{path} {body}");
        rig.settle().await;
        assert_eq!(shown(&rig, &ada).await, expected, "{path} {body}");
        assert_eq!(rig.subscription(&ada).await["pending_upgrade"], Value::Null);
        assert_eq!(invoices(&rig, &customer, "open"), Vec::<Value>::new());
        let void = invoices(&rig, &customer, "void");
        assert_eq!(
            void.iter().map(|invoice| &invoice["id"]).collect::<Vec<_>>(),
            [&open["id"]]
        );
        rig.assert_valid();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_invoice_that_is_owed_is_shown_until_it_is_paid() {
    let (rig, ada, customer) = pro().await;
    assert_eq!(rig.subscription(&ada).await["owed_invoice"], Value::Null);
    rig.control().set_card(&customer, Some(Card::Declines)).unwrap();
    rig.end_period(&ada).await;
    let open = invoices(&rig, &customer, "open").remove(0);
    let owed = json!({ "id": open["id"], "amount_remaining_cents": 2_900, "currency": "usd",
        "hosted_invoice_url": open["hosted_invoice_url"] });
    assert_eq!(rig.subscription(&ada).await["owed_invoice"], owed);
    // A preview says what the upgrade would say.
    let preview = rig
        .post(&ada, "upgrade", json!({ "tier": "enterprise", "preview": true }))
        .await;
    assert_eq!(preview.status.as_u16(), 402);
    // The debt stays when the subscription ends.
    rig.post(&ada, "cancel", json!({ "when": "now" })).await.ok().unwrap();
    rig.settle().await;
    assert_eq!(rig.subscription(&ada).await["owed_invoice"], owed);
    rig.control().pay_invoice(open["id"].as_str().unwrap()).unwrap();
    rig.settle().await;
    assert_eq!(rig.subscription(&ada).await["owed_invoice"], Value::Null);
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unpaid_subscription_owes_what_stripe_no_longer_collects() {
    let (rig, ada, customer) = pro().await;
    rig.control().set_dunning(vec![], AfterDunning::Unpaid);
    rig.control().set_card(&customer, Some(Card::Declines)).unwrap();
    rig.end_period(&ada).await;
    assert_eq!(
        shown(&rig, &ada).await,
        is("pro", "unpaid", false),
        "the grace period has begun"
    );
    rig.turn_by(GRACE_S);
    assert_eq!(shown(&rig, &ada).await, is("pro", "unpaid", true));
    let owed = invoices(&rig, &customer, "open").remove(0);
    let path = format!("/v1/invoices/{}/void", owed["id"].as_str().unwrap());
    rig.call_stripe(Method::POST, &path, "").await;
    rig.settle().await;
    assert_eq!(shown(&rig, &ada).await, is("pro", "unpaid", false), "nothing is owed");
    // The next month's invoice stays a draft.
    rig.end_period(&ada).await;
    assert_eq!(invoices(&rig, &customer, "draft").len(), 1);
    assert_eq!(shown(&rig, &ada).await, is("pro", "unpaid", false));
    rig.turn_by(GRACE_S);
    assert_eq!(shown(&rig, &ada).await, is("pro", "unpaid", true));
    rig.assert_valid();
}
