//! Strict mode: calls whose effect at Stripe is not certain.

use http::Method;
use stripe_double::StripeDoubleOptions;

use crate::rig::Rig;

#[tokio::test]
async fn strict_mode_names_calls_whose_effect_is_not_certain() {
    let rig = Rig::start(StripeDoubleOptions::default()).await;
    let (plans, customer) = (rig.catalogue().await, rig.customer().await);
    let items = format!(
        "customer={customer}&items[0][price]={}&items[1][price]={}",
        plans.pro, plans.calls
    );
    let subscription = rig.client.ok("/v1/subscriptions", &items).await;
    let path = format!("/v1/subscriptions/{}", subscription["id"].as_str().unwrap());
    let item = |n: usize| subscription["items"]["data"][n]["id"].as_str().unwrap().to_owned();
    let (licensed, metered) = (item(0), item(1));
    let violations = || rig.control.take_violations();

    // Off: nothing is said.
    let none = "proration_behavior=none";
    let remove = format!("items[0][id]={metered}&items[0][deleted]=true&{none}");
    rig.client.ok(&path, &remove).await;
    assert_eq!(violations(), [""; 0]);

    rig.control.set_strict(true);
    let add = format!("items[0][price]={}", plans.calls);
    rig.client.ok(&path, &format!("{add}&{none}")).await;
    let said = violations();
    assert!(
        said.len() == 1 && said[0].contains("proration_behavior=none"),
        "{said:?}"
    );
    let with_items = rig.client.get(&path).await;
    let metered = with_items["items"]["data"][1]["id"].as_str().unwrap();

    // A licensed price alone, and adding or removing metered items that have no usage, are certain.
    let upgrade = format!("items[0][id]={licensed}&items[0][price]={}", plans.enterprise);
    let pending = "proration_behavior=always_invoice&payment_behavior=pending_if_incomplete";
    rig.client.ok(&path, &format!("{upgrade}&{pending}")).await;
    let delete = format!("/v1/subscription_items/{metered}");
    rig.client
        .send(Method::DELETE, &delete, "", "")
        .await
        .unwrap()
        .ok()
        .unwrap();
    rig.client.ok(&path, &add).await;
    assert_eq!(violations(), [""; 0]);

    let with_items = rig.client.get(&path).await;
    let metered = with_items["items"]["data"][1]["id"].as_str().unwrap();
    let downgrade = format!("items[0][id]={licensed}&items[0][price]={}", plans.pro);
    let swap = format!("{downgrade}&items[1][id]={metered}&items[1][deleted]=true&{pending}");
    rig.client.ok(&path, &swap).await;
    let said = violations();
    assert!(said.len() == 1 && said[0].contains("pending_if_incomplete"), "{said:?}");

    rig.client.ok(&path, &add).await;
    rig.client
        .meter(&customer, "a", 5, rig.control.now())
        .await
        .ok()
        .unwrap();
    let with_items = rig.client.get(&path).await;
    let metered = with_items["items"]["data"][1]["id"].as_str().unwrap();
    let delete = format!("/v1/subscription_items/{metered}");
    rig.client
        .send(Method::DELETE, &delete, "", "")
        .await
        .unwrap()
        .ok()
        .unwrap();
    let said = violations();
    assert!(said.len() == 1 && said[0].contains("unbilled usage"), "{said:?}");
}

#[tokio::test]
async fn strict_mode_names_phases_that_drop_metered_prices() {
    let rig = Rig::start(StripeDoubleOptions {
        is_strict: true,
        ..StripeDoubleOptions::default()
    })
    .await;
    let (plans, customer) = (rig.catalogue().await, rig.customer().await);
    let items = format!(
        "customer={customer}&items[0][price]={}&items[1][price]={}",
        plans.enterprise, plans.calls
    );
    let subscription = rig.client.ok("/v1/subscriptions", &items).await;
    let schedule = format!("from_subscription={}", subscription["id"].as_str().unwrap());
    let schedule = rig.client.id("/v1/subscription_schedules", &schedule).await;
    let item = &subscription["items"]["data"][0];
    let (start, end) = (&item["current_period_start"], &item["current_period_end"]);
    let now = format!(
        "phases[0][start_date]={start}&phases[0][end_date]={end}&phases[0][items][0][price]={}&phases[0][items][1][price]={}",
        plans.enterprise, plans.calls
    );
    let then = format!("phases[1][items][0][price]={}", plans.pro);
    let path = format!("/v1/subscription_schedules/{schedule}");
    let kept = format!(
        "{now}&{then}&phases[1][items][1][price]={}&phases[1][proration_behavior]=none",
        plans.calls
    );
    rig.client.ok(&path, &kept).await;
    assert_eq!(rig.control.violations(), [""; 0]);
    rig.client
        .ok(&path, &format!("{now}&{then}&phases[1][proration_behavior]=none"))
        .await;
    assert_eq!(rig.control.violations().len(), 2, "{:?}", rig.control.violations());
}
