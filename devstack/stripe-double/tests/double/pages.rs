//! Clicks on the pages.

use http::Method;
use stripe_double::StripeDoubleOptions;

use crate::client::{ClientResponse, open};
use crate::rig::Rig;

async fn see(url: &str) -> String {
    let answer = open(Method::GET, url).await;
    assert!(answer.status.is_success(), "{url}: {}", answer.status);
    String::from_utf8_lossy(&answer.body).into_owned()
}

/// Presses the button whose form posts to a path that ends so.
async fn press(rig: &Rig, page: &str, end: &str) -> ClientResponse {
    let action = page
        .split("action=\"")
        .filter_map(|rest| rest.split('"').next())
        .find(|path| path.contains(end));
    let url = format!(
        "{}{}",
        rig.stripe.url(),
        action.unwrap_or_else(|| panic!("no button for {end}: {page}"))
    );
    open(Method::POST, &url).await
}

#[tokio::test]
async fn checkout_page_declines_pays_and_leads_on() {
    let rig = Rig::start(StripeDoubleOptions::default()).await;
    let plans = rig.catalogue().await;
    let items = format!(
        "line_items[0][price]={}&line_items[0][quantity]=1&line_items[1][price]={}",
        plans.pro, plans.calls
    );
    let urls = "success_url=https://example.com/done?s={CHECKOUT_SESSION_ID}&cancel_url=https://example.com/no";
    let body = format!("mode=subscription&customer_email=d%40example.com&{urls}&{items}");
    let session = rig.client.ok("/v1/checkout/sessions", &body).await;
    let (id, url) = (session["id"].as_str().unwrap(), session["url"].as_str().unwrap());

    let page = see(url).await;
    for text in ["Pay $29.00", "by usage", "d@example.com"] {
        assert!(page.contains(text), "{text}: {page}");
    }
    let canceled = press(&rig, &page, "/cancel").await;
    assert_eq!(canceled.header("location"), Some("https://example.com/no"));
    let declined = press(&rig, &page, "/decline").await;
    assert!(String::from_utf8_lossy(&declined.body).contains("Your card was declined."));
    assert_eq!(rig.control.object(id).unwrap()["status"], "open");
    let paid = press(&rig, &page, "/pay").await;
    assert_eq!(
        paid.header("location"),
        Some(format!("https://example.com/done?s={id}").as_str())
    );
    let complete = rig.control.object(id).unwrap();
    assert_eq!(
        (&complete["status"], &complete["payment_status"]),
        (&"complete".into(), &"paid".into())
    );
    assert!(complete["subscription"].is_string() && complete["customer"].is_string());
    let again = press(&rig, &page, "/pay").await;
    assert!(!again.status.is_success(), "a session is completed once");
    assert_eq!(rig.kinds(0).last().unwrap(), "checkout.session.completed");
    assert_eq!(rig.control.violations(), [""; 0]);
}

#[tokio::test]
async fn portal_page_cancels_a_subscription_undoes_that_and_pays() {
    let rig = Rig::start(StripeDoubleOptions::default()).await;
    rig.control.set_portal_is_configured(true);
    let (plans, customer) = (rig.catalogue().await, rig.customer().await);
    let items = format!("customer={customer}&items[0][price]={}", plans.pro);
    let id = rig.client.id("/v1/subscriptions", &items).await;
    let waiting = rig
        .client
        .ok(
            "/v1/subscriptions",
            &format!("{items}&payment_behavior=default_incomplete"),
        )
        .await;
    let body = format!("customer={customer}&return_url=https://example.com/back");
    let url = rig.client.ok("/v1/billing_portal/sessions", &body).await["url"]
        .as_str()
        .unwrap()
        .to_owned();

    let page = see(&url).await;
    assert!(page.contains("href=\"https://example.com/back\""));
    press(&rig, &page, &format!("/cancel/{id}")).await;
    // The portal sets `cancel_at` in flexible billing mode.
    let canceled = rig.control.object(&id).unwrap();
    assert_eq!(
        canceled["cancel_at"],
        canceled["items"]["data"][0]["current_period_end"]
    );
    assert_eq!(canceled["cancel_at_period_end"], false);
    let page = see(&url).await;
    press(&rig, &page, &format!("/keep/{id}")).await;
    assert!(rig.control.object(&id).unwrap()["cancel_at"].is_null());
    press(
        &rig,
        &page,
        &format!("/pay/{}", waiting["latest_invoice"].as_str().unwrap()),
    )
    .await;
    assert_eq!(
        rig.control.object(waiting["id"].as_str().unwrap()).unwrap()["status"],
        "active"
    );

    let stranger = rig.customer().await;
    let theirs = rig
        .client
        .ok("/v1/billing_portal/sessions", &format!("customer={stranger}"))
        .await;
    let not_theirs = format!("{}/cancel/{id}", theirs["url"].as_str().unwrap());
    let refused = open(Method::POST, &not_theirs).await;
    assert_eq!(refused.status, 404, "a session is for one customer");
    assert!(see(rig.stripe.url()).await.contains("every call was valid"));
}
