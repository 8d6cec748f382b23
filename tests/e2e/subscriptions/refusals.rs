//! What Stripe refuses for good is a 4xx that says what to do. It changes nothing, and is not tried again.

use billing_worker::{reports::attention, webhook::inbox, webhook::worker};
use devstack::{
    StripeDoubleOptions,
    stripe_double::{Card, FaultKind, FaultRule, RefusalKind},
};
use http::Method;
use schema::Catalogue;
use serde_json::{Value, json};

use super::rig::{DAY_S, Rig, Subscriber};

/// Status, error and message of a request that is refused. A 4xx must not ask for a repetition.
async fn refused(rig: &Rig, who: &Subscriber, path: &str, body: Value) -> (u16, String, String) {
    let answer = rig.post(who, path, body).await;
    let problem = answer.json().unwrap();
    let (status, text) = (answer.status.as_u16(), |name: &str| {
        problem[name].as_str().unwrap().to_owned()
    });
    let message = text("message");
    if status < 500 {
        assert!(answer.header("retry-after").is_none(), "{problem}");
        assert!(!message.contains("try again"), "{message}");
    }
    (status, text("error"), message)
}

async fn is_refused(rig: &Rig, who: &Subscriber, path: &str, body: Value, status: u16, error: &str, says: &str) {
    let (found, kind, message) = refused(rig, who, path, body).await;
    assert_eq!((found, kind.as_str()), (status, error), "{message}");
    assert!(message.contains(says), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_refusal_has_a_problem_of_its_own_and_one_call_is_made() {
    let rig = Rig::start().await;
    let ada = rig.subscriber("ada").await;
    let sessions = "/v1/checkout/sessions";
    for (refusal, status, error, says) in [
        (
            RefusalKind::AmountTooSmall,
            422,
            "amount_not_chargeable",
            "another plan",
        ),
        (
            RefusalKind::AmountTooLarge,
            422,
            "amount_not_chargeable",
            "another plan",
        ),
        (
            RefusalKind::CardDeclined,
            402,
            "payment_failed",
            "Your card was declined",
        ),
        (
            RefusalKind::NoPaymentMethod,
            402,
            "payment_failed",
            "/billing/portal-session",
        ),
        (
            RefusalKind::CurrencyMismatch,
            409,
            "currency_mismatch",
            "another currency",
        ),
        (RefusalKind::Missing, 409, "missing_in_stripe", "STRIPE_SECRET_KEY"),
        (
            RefusalKind::PaymentMethodUnsupported,
            409,
            "payment_method_unsupported",
            "add a card",
        ),
        (
            RefusalKind::PortalNotConfigured,
            409,
            "portal_not_configured",
            "stripe sync",
        ),
        (RefusalKind::PriceInactive, 409, "price_inactive", "stripe sync"),
        (RefusalKind::TooManySubscriptions, 422, "stripe_refused", "request's id"),
        // Ours to mend, not the customer's.
        (RefusalKind::InvalidKey, 503, "stripe_not_configured", "an operator"),
        (
            RefusalKind::PermissionMissing,
            503,
            "stripe_not_configured",
            "an operator",
        ),
    ] {
        rig.control().clear_requests();
        let fault = FaultRule::new(FaultKind::Refused(refusal))
            .path(sessions)
            .method("POST");
        rig.control().add_fault(fault);
        is_refused(
            &rig,
            &ada,
            "create-checkout-session",
            json!({ "tier": "pro" }),
            status,
            error,
            says,
        )
        .await;
        let calls = rig.control().requests();
        let calls = calls
            .iter()
            .filter(|call| call.path == sessions && call.method == "POST");
        assert_eq!(calls.count(), 1, "{refusal:?}");
        rig.control().clear_faults();
    }
    rig.check_out(&ada, "pro").await;
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customer_with_an_open_item_in_another_currency_is_refused_until_it_is_gone() {
    let rig = Rig::start().await;
    let ada = rig.subscriber("ada").await;
    rig.post(&ada, "portal-session", json!({})).await.ok().unwrap();
    let customer = rig.customers(&ada).remove(0);
    let form = format!("customer={customer}&amount=500&currency=eur");
    let item = rig.call_stripe(Method::POST, "/v1/invoiceitems", &form).await;
    for path in ["create-checkout-session", "subscriptions"] {
        let body = json!({ "tier": "pro" });
        is_refused(
            &rig,
            &ada,
            path,
            body,
            409,
            "currency_mismatch",
            "/billing/portal-session",
        )
        .await;
    }
    let item = format!("/v1/invoiceitems/{}", item["id"].as_str().unwrap());
    rig.call_stripe(Method::DELETE, &item, "").await;
    rig.check_out(&ada, "pro").await;
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_price_below_the_smallest_charge_cannot_be_bought() {
    let cheap = include_str!("../../../schema/plans.toml").replace("month = 2900 }", "month = 30 }");
    let rig = Rig::with(StripeDoubleOptions::default(), Catalogue::parse(&cheap).unwrap()).await;
    let ada = rig.subscriber("ada").await;
    let (pro, says) = (json!({ "tier": "pro" }), "too small or too large");
    is_refused(
        &rig,
        &ada,
        "create-checkout-session",
        pro,
        422,
        "amount_not_chargeable",
        says,
    )
    .await;
    rig.check_out(&ada, "enterprise").await;
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_to_a_plan_with_an_archived_price_leaves_the_subscription_as_it_is() {
    let rig = Rig::start().await;
    rig.listen();
    let ada = rig.subscribed("ada", "enterprise").await;
    let id = rig.subscription(&ada).await["stripe_subscription_id"]
        .as_str()
        .unwrap()
        .to_owned();
    let sold = rig
        .call_stripe(Method::GET, "/v1/prices?lookup_keys[0]=trendit_pro", "")
        .await;
    let price = format!("/v1/prices/{}", sold["data"][0]["id"].as_str().unwrap());
    rig.call_stripe(Method::POST, &price, "active=false").await;
    let pro = json!({ "tier": "pro" });
    is_refused(&rig, &ada, "upgrade", pro.clone(), 409, "price_inactive", "activate it").await;
    rig.settle().await;
    let subscription = rig.subscription(&ada).await;
    assert_eq!(
        (&subscription["tier"], &subscription["then_tier"]),
        (&json!("enterprise"), &Value::Null)
    );
    assert!(rig.control().object(&id).unwrap()["schedule"].is_null());

    rig.call_stripe(Method::POST, &price, "active=true").await;
    rig.post(&ada, "upgrade", pro).await.ok().unwrap();
    assert_eq!(rig.subscription(&ada).await["then_tier"], "pro");
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_portal_without_a_configuration_is_the_operators_to_make() {
    let rig = Rig::start().await;
    let ada = rig.subscriber("ada").await;
    let all = rig
        .call_stripe(Method::GET, "/v1/billing_portal/configurations", "")
        .await;
    let ours = &all["data"][0];
    assert_eq!(ours["metadata"]["trendit"], "1");
    let features = &ours["features"];
    assert_eq!(
        (
            &features["subscription_update"]["enabled"],
            &features["subscription_cancel"]["mode"]
        ),
        (&json!(false), &json!("at_period_end"))
    );
    let configuration = format!("/v1/billing_portal/configurations/{}", ours["id"].as_str().unwrap());
    rig.call_stripe(Method::POST, &configuration, "active=false").await;
    is_refused(
        &rig,
        &ada,
        "portal-session",
        json!({}),
        409,
        "portal_not_configured",
        "stripe sync",
    )
    .await;
    // The operator runs the command again.
    rig.sync().await;
    assert_eq!(rig.post(&ada, "portal-session", json!({})).await.status.as_u16(), 201);
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customer_that_stripe_does_not_have_is_named_as_missing() {
    let rig = Rig::start().await;
    let ada = rig.subscriber("ada").await;
    rig.post(&ada, "portal-session", json!({})).await.ok().unwrap();
    let customer = format!("/v1/customers/{}", rig.customers(&ada)[0]);
    rig.call_stripe(Method::DELETE, &customer, "").await;
    is_refused(
        &rig,
        &ada,
        "portal-session",
        json!({}),
        409,
        "missing_in_stripe",
        "the account's customer",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_by_bank_debit_is_refused_now_and_possible_at_the_periods_end() {
    let rig = Rig::start().await;
    rig.listen();
    let ada = rig.subscribed("ada", "pro").await;
    let customer = rig.customers(&ada).remove(0);
    rig.control().set_card(&customer, Some(Card::BankDebit)).unwrap();
    rig.control().set_bank_debit_settles_after_s(0);
    rig.turn_by(DAY_S);
    let enterprise = json!({ "tier": "enterprise" });
    let error = "payment_method_unsupported";
    is_refused(
        &rig,
        &ada,
        "upgrade",
        enterprise.clone(),
        409,
        error,
        "`us_bank_account`",
    )
    .await;
    let subscription = rig.subscription(&ada).await;
    assert_eq!(
        (&subscription["tier"], &subscription["then_tier"]),
        (&json!("pro"), &Value::Null)
    );
    assert_eq!(rig.control().invoices(&customer).len(), 1, "nothing is charged");

    let at_end = json!({ "tier": "enterprise", "when": "period_end" });
    let mut preview = at_end.clone();
    preview["preview"] = true.into();
    let preview = rig.post(&ada, "upgrade", preview).await.ok().unwrap();
    assert_eq!(preview["amount_due_cents"], 0);
    let planned = rig.post(&ada, "upgrade", at_end).await.ok().unwrap();
    assert_eq!(
        (&planned["tier"], &planned["then_tier"]),
        (&json!("pro"), &json!("enterprise"))
    );
    assert_eq!(planned["ends_at"], preview["effective_at"]);
    rig.end_period(&ada).await;
    assert_eq!(rig.subscription(&ada).await["tier"], "enterprise");
    let renewal = rig.control().invoices(&customer).pop().unwrap();
    assert_eq!(
        (&renewal["status"], &renewal["total"]),
        (&json!("paid"), &json!(29_900))
    );

    rig.control().set_card(&customer, Some(Card::Ok)).unwrap();
    let (now, says) = (json!({ "tier": "pro", "when": "now" }), "`when`");
    is_refused(&rig, &ada, "upgrade", now, 400, "invalid_request", says).await;
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_stripe_refuses_for_good_needs_attention_until_it_is_applied() {
    let rig = Rig::start().await;
    rig.listen();
    let ada = rig.subscriber("ada").await;
    let admin = &rig.billing.admin;
    let failing = async || {
        attention::find(&admin.db, &admin.catalogue)
            .await
            .unwrap()
            .failing_events
    };
    rig.check_out(&ada, "pro").await;
    rig.control().settle_webhooks(harness::PATIENCE).await.unwrap();
    let refusal = FaultKind::Refused(RefusalKind::TooManySubscriptions);
    let fault = FaultRule::new(refusal).path("/v1/subscriptions").method("GET");
    rig.control().add_fault(fault);
    for attempt in 1..=3 {
        assert_eq!(failing().await, [], "before attempt {attempt}");
        sqlx::query("update webhook_events set next_attempt_at = now() where state = 'received'")
            .execute(&rig.pool)
            .await
            .unwrap();
        worker::step(&rig.billing, &rig.metrics).await.unwrap();
    }
    let events = failing().await;
    assert!(!events.is_empty());
    for event in &events {
        assert_eq!((event.state.as_str(), event.attempts), ("received", 3));
        let error = event.error.as_deref().unwrap();
        assert!(error.contains("customer_max_subscriptions"), "{error}");
    }

    // It is given up, and still listed.
    rig.work().await;
    let parked = failing().await;
    assert_eq!(parked.len(), events.len());
    assert!(parked.iter().all(|event| event.state == "parked"), "{parked:?}");
    assert_eq!(rig.subscription(&ada).await["tier"], "free");

    rig.control().clear_faults();
    for event in &parked {
        inbox::retry(admin, &event.id).await.unwrap();
    }
    rig.work().await;
    assert_eq!(failing().await, []);
    assert_eq!(rig.subscription(&ada).await["tier"], "pro");
    rig.assert_valid();
}
