//! Currencies that do not fit: what a request gets, and that nothing is half done.

use billing_worker::subscriptions::{
    migrate::{Action, Outcome, migrate},
    migration::{MigrateWhen, Migration},
};
use devstack::http::request;
use http::{Method, header::AUTHORIZATION};
use schema::Catalogue;
use serde_json::{Value, json};

use super::{
    currencies::{PLANS, start},
    rig::{Rig, Subscriber},
};

const CHECKOUT: &str = "create-checkout-session";

/// Refuses the request, and writes nothing to Stripe.
async fn is_refused(rig: &Rig, who: &Subscriber, path: &str, body: Value, status: u16, error: &str, says: &str) {
    rig.control().clear_requests();
    let before = rig.state(who).await.unwrap();
    let answer = rig.post(who, path, body.clone()).await;
    let problem = answer.json().unwrap();
    let message = problem["message"].as_str().unwrap();
    assert_eq!(
        (answer.status.as_u16(), &problem["error"]),
        (status, &json!(error)),
        "{body}: {problem}"
    );
    assert!(
        message.contains(says) && message.contains("nothing was changed") || status == 400,
        "{message}"
    );
    let written: Vec<_> = rig
        .control()
        .requests()
        .into_iter()
        .filter(|call| call.method != "GET")
        .collect();
    assert!(written.iter().all(|call| call.path == "/v1/customers"), "{written:?}");
    assert_eq!(rig.state(who).await.unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_currency_in_which_the_plan_is_not_sold_is_refused_with_those_that_it_has() {
    let rig = start().await;
    let ada = rig.subscriber("ada").await;
    for path in [CHECKOUT, "subscriptions"] {
        for (tier, currency, says) in [("pro", "gbp", "sold in usd, eur"), ("team", "eur", "sold in usd")] {
            let asked = json!({ "tier": tier, "currency": currency });
            is_refused(&rig, &ada, path, asked, 422, "currency_not_offered", says).await;
        }
        for currency in ["EUR", "euro", "", "jpy"] {
            let asked = json!({ "tier": "pro", "currency": currency });
            is_refused(&rig, &ada, path, asked, 400, "invalid_request", "").await;
        }
    }
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_has_paid_in_euros_is_offered_euros() {
    let rig = start().await;
    let ada = rig.paying_in("ada", "pro", "eur").await;
    let list = rig.get(&ada, "plans").await;
    let plan = |id: &str| {
        list["plans"]
            .as_array()
            .unwrap()
            .iter()
            .find(|plan| plan["id"] == id)
            .unwrap()
    };
    assert_eq!(list["currency"], "eur");
    assert_eq!(plan("pro")["prices"]["month"], json!({ "usd": 2_900, "eur": 2_700 }));
    assert_eq!(
        plan("pro")["limits"][0]["unit_prices"],
        json!({ "usd": 15_000, "eur": 14_000 })
    );
    let features = plan("pro")["features"].to_string();
    assert!(features.contains("then 0.014 EUR each"), "{features}");
    let mut anyone = request(Method::GET, &format!("{}/billing/plans", rig.url), "", None).unwrap();
    anyone.headers_mut().remove(AUTHORIZATION);
    let anyone = rig.http.send(anyone).await.unwrap().ok().unwrap();
    assert_eq!(anyone["currency"], Value::Null);

    rig.post(&ada, "cancel", json!({ "when": "now" })).await.ok().unwrap();
    rig.settle().await;
    for path in [CHECKOUT, "subscriptions"] {
        for (tier, currency, says) in [("pro", Some("usd"), "send \"eur\""), ("team", None, "sold only in usd")] {
            let asked = json!({ "tier": tier, "currency": currency });
            is_refused(&rig, &ada, path, asked, 409, "currency_bound", says).await;
        }
    }
    let opened = rig.post(&ada, CHECKOUT, json!({ "tier": "pro" })).await.ok().unwrap();
    let session = rig.control().object(opened["session_id"].as_str().unwrap()).unwrap();
    assert_eq!(
        (&session["currency"], &session["amount_total"]),
        (&json!("eur"), &json!(2_700))
    );
    // The same checkout is handed out again, whether the request names the currency or not.
    let again = rig
        .post(&ada, CHECKOUT, json!({ "tier": "pro", "currency": "eur" }))
        .await
        .ok()
        .unwrap();
    assert_eq!(again["session_id"], opened["session_id"]);
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_first_payment_a_customer_can_choose_again() {
    let rig = start().await;
    let ada = rig.subscriber("ada").await;
    let asked = |currency: &str| json!({ "tier": "pro", "currency": currency });
    let session = async |currency: &str| {
        let opened = rig.post(&ada, CHECKOUT, asked(currency)).await.ok().unwrap();
        opened["session_id"].as_str().unwrap().to_owned()
    };
    let (euros, dollars) = (session("eur").await, session("usd").await);
    assert_ne!(euros, dollars);
    assert_eq!(rig.control().object(&euros).unwrap()["status"], "expired");

    // A payment form in euros binds the customer in Stripe, and is given up.
    let form = rig.post(&ada, "subscriptions", asked("eur")).await.ok().unwrap();
    let customer = &rig.customers(&ada)[0];
    assert_eq!(rig.control().object(customer).unwrap()["currency"], "eur");
    assert_eq!(rig.control().invoices(customer)[0]["total"], 2_700);
    let same = rig.post(&ada, "subscriptions", asked("eur")).await.ok().unwrap();
    assert_eq!(same["subscription_id"], form["subscription_id"]);
    let other = rig.post(&ada, "subscriptions", asked("usd")).await.ok().unwrap();
    assert_ne!(other["subscription_id"], form["subscription_id"]);
    rig.control().complete_checkout(&session("usd").await).unwrap();
    rig.settle().await;
    let shown = rig.subscription(&ada).await;
    assert_eq!(
        (&shown["currency"], &shown["price_cents"]),
        (&json!("usd"), &json!(2_900))
    );
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_to_a_plan_that_lacks_the_currency_is_refused_and_nothing_changes() {
    let mut rig = start().await;
    let ada = rig.paying_in("ada", "pro", "eur").await;
    let ben = rig.subscribed("ben", "pro").await;
    for more in [json!({}), json!({ "preview": true }), json!({ "when": "period_end" })] {
        let mut asked = json!({ "tier": "team" });
        asked.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        is_refused(&rig, &ada, "upgrade", asked, 409, "currency_bound", "sold only in usd").await;
    }
    rig.post(&ben, "upgrade", json!({ "tier": "team", "preview": true }))
        .await
        .ok()
        .unwrap();

    // A version of the same plan without euros.
    let dollars = PLANS
        .replace("{ usd = 2900, eur = 2700 }", "3900")
        .replace("{ usd = 15_000, eur = 14_000 }", "15_000")
        .replace("{ usd = 333_333, eur = 300_000 }", "333_333");
    rig.roll_out(Catalogue::parse(&dollars).unwrap()).await;
    let found = Migration::find(&rig.pool, "pro@1", "pro@2", MigrateWhen::PeriodEnd, rig.control().now());
    let migration = found.await.unwrap();
    let of_ada = migrate(&rig.billing, ada.account, &migration, Action::Make).await;
    assert_eq!(of_ada.outcome, Outcome::Skipped, "{of_ada:?}");
    assert!(
        of_ada.reason.as_ref().unwrap().contains("sold only in usd"),
        "{of_ada:?}"
    );
    assert_eq!((of_ada.currency.as_str(), of_ada.price_cents_now), ("eur", 2_700));
    let of_ben = migrate(&rig.billing, ben.account, &migration, Action::Make).await;
    assert_eq!(of_ben.outcome, Outcome::Migrated, "{of_ben:?}");
    // Ada keeps her version, also after the period.
    rig.end_period(&ada).await;
    let shown = rig.subscription(&ada).await;
    assert_eq!(
        (&shown["plan_version"], &shown["price_cents"]),
        (&json!(1), &json!(2_700))
    );
    rig.assert_valid();
}
