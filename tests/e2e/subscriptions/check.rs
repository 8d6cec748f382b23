//! `billing-worker stripe check`: each thing is broken once.

use billing_worker::check::row::Level;
use devstack::{
    StripeDoubleOptions,
    stripe_double::{Card, FaultKind, FaultRule, RefusalKind},
};
use http::Method;
use schema::Catalogue;
use serde_json::Value;
use sqlx::ConnectOptions;
use tokio::process::Command;

use super::{findings::id, rig::Rig};
use crate::{SERVICES, billing::worker::output};

/// What is wrong, with how to mend it.
async fn wrong(rig: &Rig, level: Level) -> Vec<(String, String)> {
    let rows = rig.check().await.into_iter().filter(|row| row.level == level);
    rows.map(|row| (row.what, row.mend.unwrap())).collect()
}

/// Asserts that exactly this is an error now, and that the row says how to mend it.
async fn is_error(rig: &Rig, what: &str, mend: &str) {
    let wrong = wrong(rig, Level::Error).await;
    let [row] = wrong.as_slice() else {
        panic!("{what}: {wrong:?}")
    };
    assert!(row.0.contains(what) && row.1.contains(mend), "{row:?}");
}

async fn warnings(rig: &Rig) -> Vec<String> {
    let warnings = wrong(rig, Level::Warning).await.into_iter();
    // The rig has no encryption.
    warnings
        .map(|row| row.0)
        .filter(|what| !what.contains("not encrypted"))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_finds_each_thing_that_is_broken_and_says_how_to_mend_it() {
    let mut rig = Rig::start().await;
    rig.is_public().await;
    is_error(&rig, "no webhook endpoint", "BILLING_PUBLIC_URL").await;
    rig.listen();
    assert_eq!(wrong(&rig, Level::Error).await, []);
    assert_eq!(warnings(&rig).await, Vec::<String>::new());

    // The key.
    let refused = |kind: RefusalKind| FaultRule::new(FaultKind::Refused(kind));
    let denied = refused(RefusalKind::PermissionMissing);
    for (fault, what) in [
        (
            denied.clone().method("GET").path("/v1/subscription_schedules"),
            "to read Subscription Schedules",
        ),
        (denied.clone().method("POST").path("/v1/prices"), "to write Prices"),
        (
            denied.clone().method("POST").path("/v1/billing/meter_events"),
            "to write Billing Meter Events",
        ),
        (refused(RefusalKind::InvalidKey), "does not accept STRIPE_SECRET_KEY"),
    ] {
        rig.control().add_fault(fault);
        is_error(&rig, what, "").await;
        rig.control().clear_faults();
    }
    rig.control().add_fault(denied.path("/v1/webhook_endpoints"));
    let unchecked = wrong(&rig, Level::Unchecked).await;
    assert!(
        unchecked.iter().any(|row| row.0.contains("Webhook Endpoints")),
        "{unchecked:?}"
    );
    rig.control().clear_faults();

    // The webhook endpoint.
    let endpoints = rig.call_stripe(Method::GET, "/v1/webhook_endpoints", "").await;
    let endpoint = format!("/v1/webhook_endpoints/{}", id(&endpoints["data"][0]));
    for (breaks, mends, what) in [
        ("disabled=true", "disabled=false", "is disabled"),
        (
            "enabled_events[0]=invoice.paid",
            "enabled_events[0]=*",
            "customer.subscription.updated",
        ),
    ] {
        rig.call_stripe(Method::POST, &endpoint, breaks).await;
        is_error(&rig, what, "in Stripe").await;
        rig.call_stripe(Method::POST, &endpoint, mends).await;
    }
    let older = rig
        .control()
        .add_webhook_of_version(&rig.webhook_url(), "2024-06-20")
        .unwrap();
    assert!(warnings(&rig).await[0].contains("2 webhook endpoints"));
    rig.call_stripe(Method::DELETE, &endpoint, "").await;
    assert!(warnings(&rig).await[0].contains("API version 2024-06-20"));
    rig.call_stripe(Method::DELETE, &format!("/v1/webhook_endpoints/{older}"), "")
        .await;
    rig.listen();

    // Products, prices, meters, the portal.
    let price = rig
        .call_stripe(Method::GET, "/v1/prices?lookup_keys[0]=trendit_pro", "")
        .await;
    let price = format!("/v1/prices/{}", id(&price["data"][0]));
    let portal = rig
        .call_stripe(Method::GET, "/v1/billing_portal/configurations", "")
        .await;
    let portal = format!("/v1/billing_portal/configurations/{}", id(&portal["data"][0]));
    let sync = "stripe sync";
    for (path, breaks, mends, what) in [
        (
            "/v1/products/trendit_pro",
            "name=Other",
            "name=Pro",
            "rename product trendit_pro",
        ),
        (&price, "active=false", "active=true", "activate price"),
        (&portal, "active=false", "active=true", "activate the configuration"),
    ] {
        rig.call_stripe(Method::POST, path, breaks).await;
        is_error(&rig, what, sync).await;
        rig.call_stripe(Method::POST, path, mends).await;
    }
    sqlx::query("delete from stripe_objects")
        .execute(&rig.pool)
        .await
        .unwrap();
    is_error(&rig, "is not the one that portal sessions have", sync).await;
    rig.sync().await;
    let meters = rig.call_stripe(Method::GET, "/v1/billing/meters", "").await;
    let meter = format!("/v1/billing/meters/{}", id(&meters["data"][0]));
    rig.call_stripe(Method::POST, &format!("{meter}/deactivate"), "").await;
    is_error(&rig, "create meter", sync).await;
    rig.call_stripe(Method::POST, &format!("{meter}/reactivate"), "").await;
    assert_eq!(wrong(&rig, Level::Error).await, []);

    // Subscriptions.
    let ada = rig.subscribed("ada", "pro").await;
    let subscription = rig.subscription(&ada).await["stripe_subscription_id"].clone();
    let subscription = subscription.as_str().unwrap();
    let customer = rig.customers(&ada).remove(0);
    rig.control().set_card(&customer, Some(Card::BankDebit)).unwrap();
    let pause = "pause_collection[behavior]=void";
    rig.call_stripe(Method::POST, &format!("/v1/subscriptions/{subscription}"), pause)
        .await;
    rig.settle().await;
    let [slow, findings] = warnings(&rig).await.try_into().unwrap();
    assert!(slow.contains(subscription) && slow.contains("card"), "{slow}");
    assert!(findings.contains("paused_collection (1)"), "{findings}");
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_exit_code_of_the_doctor_says_whether_something_is_wrong() {
    let rig = Rig::without_prices(StripeDoubleOptions::default(), Catalogue::built_in()).await;
    rig.listen();
    let run = async |args: &[&str]| {
        let mut command = Command::new(SERVICES);
        command
            .args(["service", "billing-worker", "stripe"])
            .args(args)
            .env("DATABASE_URL", rig.pool.connect_options().to_url_lossy().as_str())
            .env("STRIPE_SECRET_KEY", rig.stripe.api_key())
            .env("STRIPE_API_BASE", rig.stripe.url())
            .env("STRIPE_WEBHOOK_SECRETS", rig.stripe.webhook_secret())
            .env("BILLING_PUBLIC_URL", &rig.url);
        let output = output(command).await;
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, shown) = run(&["check", "--json"]).await;
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(code, 1, "{shown}");
    let errors = shown["errors"].as_u64().unwrap();
    let rows = shown["rows"].as_array().unwrap();
    assert_eq!(rows.iter().filter(|row| row["level"] == "error").count() as u64, errors);
    assert!(
        rows.iter().all(|row| row["level"] == "ok" || row["mend"].is_string()),
        "{shown}"
    );
    assert_eq!(run(&["sync"]).await.0, 0);
    let (code, shown) = run(&["check"]).await;
    assert_eq!(code, 0, "{shown}");
    assert!(shown.contains("the key has all permissions"), "{shown}");
    rig.assert_valid();
}
