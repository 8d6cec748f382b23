//! Refusals in Stripe's form: by the double's own rules, and injected.

use http::Method;
use serde_json::{Value, json};
use stripe_double::{Card, FaultKind, FaultRule, RefusalKind, StripeDoubleOptions};

use crate::client::ClientResponse;
use crate::rig::Rig;

/// Status, code and parameter of an error.
fn refusal(answer: &ClientResponse) -> (u16, Value, Value) {
    let error = answer.json().unwrap()["error"].clone();
    assert!(error["message"].is_string(), "{error}");
    (answer.status.as_u16(), error["code"].clone(), error["param"].clone())
}

fn says(answer: &ClientResponse) -> String {
    assert_eq!(answer.status.as_u16(), 400, "{answer:?}");
    crate::client::message(answer)
}

#[tokio::test]
async fn injected_refusals_have_stripes_form_and_do_nothing() {
    let rig = Rig::start(StripeDoubleOptions::default()).await;
    let none = Value::Null;
    for (kind, expected) in [
        (
            RefusalKind::AmountTooSmall,
            (400, json!("amount_too_small"), none.clone()),
        ),
        (
            RefusalKind::AmountTooLarge,
            (400, json!("amount_too_large"), none.clone()),
        ),
        (RefusalKind::CardDeclined, (402, json!("card_declined"), none.clone())),
        (RefusalKind::CurrencyMismatch, (400, none.clone(), none.clone())),
        (RefusalKind::InvalidKey, (401, none.clone(), none.clone())),
        (
            RefusalKind::Missing,
            (400, json!("resource_missing"), json!("customer")),
        ),
        (
            RefusalKind::NoPaymentMethod,
            (400, json!("resource_missing"), none.clone()),
        ),
        (
            RefusalKind::PaymentMethodUnsupported,
            (400, none.clone(), json!("payment_behavior")),
        ),
        (RefusalKind::PermissionMissing, (403, none.clone(), none.clone())),
        (RefusalKind::PortalNotConfigured, (400, none.clone(), none.clone())),
        (
            RefusalKind::PriceInactive,
            (400, none.clone(), json!("items[0][price]")),
        ),
        (
            RefusalKind::TooManySubscriptions,
            (400, json!("customer_max_subscriptions"), none.clone()),
        ),
    ] {
        rig.control.add_fault(FaultRule::new(FaultKind::Refused(kind)).times(1));
        assert_eq!(
            refusal(&rig.client.post("/v1/customers", "name=Ada").await),
            expected,
            "{kind:?}"
        );
    }
    assert_eq!(rig.control.customers().len(), 0);
    rig.control
        .add_fault(FaultRule::new(FaultKind::Refused(RefusalKind::PriceInactive)).times(1));
    let create = async || {
        rig.client
            .send(Method::POST, "/v1/customers", "name=Ada", "k")
            .await
            .unwrap()
    };
    for _ in 0..2 {
        assert_eq!(create().await.status, 400, "it is stored under the key");
    }
    assert_eq!(rig.control.violations(), [""; 0]);
}

#[tokio::test]
async fn a_customer_has_one_currency_at_a_time() {
    let rig = Rig::start(StripeDoubleOptions::default()).await;
    let (plans, customer) = (rig.catalogue().await, rig.customer().await);
    let product = rig.client.id("/v1/products", "name=Euro").await;
    let euro = format!("product={product}&currency=eur&recurring[interval]=month&unit_amount=2900");
    let euro = rig.client.id("/v1/prices", &euro).await;
    let subscribe = |price: &str| format!("customer={customer}&items[0][price]={price}");
    let subscription = rig.client.id("/v1/subscriptions", &subscribe(&plans.pro)).await;
    let mixed = "You cannot combine currencies on a single customer.";
    let answer = rig.client.post("/v1/subscriptions", &subscribe(&euro)).await;
    assert!(says(&answer).starts_with(mixed) && says(&answer).ends_with("with currency usd"));
    let item = format!("customer={customer}&amount=100&currency=eur");
    assert!(says(&rig.client.post("/v1/invoiceitems", &item).await).starts_with(mixed));
    let checkout = format!(
        "mode=subscription&customer={customer}&success_url=http://x&line_items[0][price]={euro}&line_items[0][quantity]=1"
    );
    assert!(says(&rig.client.post("/v1/checkout/sessions", &checkout).await).starts_with(mixed));
    // After the end of the subscription, another currency is possible.
    let path = format!("/v1/subscriptions/{subscription}");
    rig.client
        .send(Method::DELETE, &path, "", "")
        .await
        .unwrap()
        .ok()
        .unwrap();
    rig.client.ok("/v1/checkout/sessions", &checkout).await;
    rig.client.ok("/v1/subscriptions", &subscribe(&euro)).await;
    assert_eq!(rig.control.violations(), [""; 0]);
}

#[tokio::test]
async fn a_checkout_charges_at_least_fifty_cents_at_once_or_nothing() {
    let rig = Rig::start(StripeDoubleOptions::default()).await;
    let product = rig.client.id("/v1/products", "name=Cheap").await;
    for (cents, expected) in [
        (0, None),
        (49, Some("amount_too_small")),
        (50, None),
        (99_999_999, None),
        (100_000_000, Some("amount_too_large")),
    ] {
        let price = format!("product={product}&currency=usd&recurring[interval]=month&unit_amount={cents}");
        let price = rig.client.id("/v1/prices", &price).await;
        let checkout =
            format!("mode=subscription&success_url=http://x&line_items[0][price]={price}&line_items[0][quantity]=1");
        let answer = rig.client.post("/v1/checkout/sessions", &checkout).await;
        match expected {
            None => assert_eq!(answer.status, 200, "{cents}"),
            Some(code) => assert_eq!(refusal(&answer), (400, json!(code), Value::Null), "{cents}"),
        }
        let trial = format!("{checkout}&subscription_data[trial_period_days]=7");
        assert_eq!(rig.client.post("/v1/checkout/sessions", &trial).await.status, 200);
    }
}

#[tokio::test]
async fn an_archived_price_is_refused_wherever_a_call_names_it() {
    let rig = Rig::start(StripeDoubleOptions::default()).await;
    let (plans, customer) = (rig.catalogue().await, rig.customer().await);
    let create = format!("customer={customer}&items[0][price]={}", plans.enterprise);
    let subscription = rig.client.ok("/v1/subscriptions", &create).await;
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let (id, item) = (text(&subscription["id"]), &subscription["items"]["data"][0]);
    let schedule = rig
        .client
        .id("/v1/subscription_schedules", &format!("from_subscription={id}"))
        .await;
    let (start, end) = (&item["current_period_start"], &item["current_period_end"]);
    let phases = |now: &str, then: &str| {
        format!(
            "phases[0][start_date]={start}&phases[0][end_date]={end}&phases[0][items][0][price]={now}&phases[1][items][0][price]={then}"
        )
    };
    rig.client
        .ok(&format!("/v1/prices/{}", plans.pro), "active=false")
        .await;
    let items = format!("items[0][id]={}&items[0][price]={}", text(&item["id"]), plans.pro);
    for (path, body) in [
        (
            "/v1/subscriptions".to_owned(),
            format!("customer={customer}&items[0][price]={}", plans.pro),
        ),
        (format!("/v1/subscriptions/{id}"), items),
        (
            format!("/v1/subscription_schedules/{schedule}"),
            phases(&plans.enterprise, &plans.pro),
        ),
        (
            "/v1/checkout/sessions".to_owned(),
            format!(
                "mode=subscription&success_url=http://x&line_items[0][price]={}&line_items[0][quantity]=1",
                plans.pro
            ),
        ),
    ] {
        let said = says(&rig.client.post(&path, &body).await);
        assert_eq!(
            said, "The price specified is inactive. This field only accepts active prices.",
            "{path}"
        );
    }
    // The price of the running phase counts, too.
    rig.client.ok(&format!("/v1/prices/{}", plans.pro), "active=true").await;
    rig.client
        .ok(&format!("/v1/prices/{}", plans.enterprise), "active=false")
        .await;
    let path = format!("/v1/subscription_schedules/{schedule}");
    assert!(says(&rig.client.post(&path, &phases(&plans.enterprise, &plans.pro)).await).contains("inactive"));
    assert_eq!(rig.control.violations(), [""; 0]);
}

#[tokio::test]
async fn the_portal_opens_once_it_is_configured() {
    let rig = Rig::start(StripeDoubleOptions::default()).await;
    let open = format!("customer={}", rig.customer().await);
    let sessions = "/v1/billing_portal/sessions";
    let refused = async |body: &str| says(&rig.client.post(sessions, body).await);
    assert!(refused(&open).await.starts_with("No configuration provided"));
    let features = "features[subscription_cancel][enabled]=true&features[subscription_update][enabled]=false";
    let configuration = format!("{features}&metadata[trendit]=1");
    let configuration = rig.client.ok("/v1/billing_portal/configurations", &configuration).await;
    assert_eq!(
        (
            &configuration["features"]["subscription_cancel"]["mode"],
            &configuration["is_default"]
        ),
        (&json!("at_period_end"), &json!(false))
    );
    // One that the API makes is for the sessions that name it.
    assert!(refused(&open).await.starts_with("No configuration provided"));
    let id = configuration["id"].as_str().unwrap();
    let named = format!("{open}&configuration={id}");
    assert_eq!(rig.client.ok(sessions, &named).await["configuration"], id);
    assert!(
        refused(&format!("{open}&configuration=bpc_none"))
            .await
            .contains("bpc_none")
    );
    let path = format!("/v1/billing_portal/configurations/{id}");
    rig.client.ok(&path, "active=false").await;
    assert!(refused(&named).await.contains("not active"));
    let active = rig.client.get("/v1/billing_portal/configurations?active=true").await;
    assert_eq!(active["data"], json!([]));
    rig.control.set_portal_is_configured(true);
    rig.client.ok(sessions, &open).await;
    assert_eq!(rig.control.violations(), [""; 0]);
}

#[tokio::test]
async fn a_bank_debit_pays_but_allows_no_pending_update() {
    let rig = Rig::start(StripeDoubleOptions::default()).await;
    rig.control.set_bank_debit_settles_after_s(0);
    let (plans, customer) = (rig.catalogue().await, rig.customer().await);
    rig.control.set_card(&customer, Some(Card::BankDebit)).unwrap();
    let create = format!("customer={customer}&items[0][price]={}", plans.pro);
    let subscription = rig.client.ok("/v1/subscriptions", &create).await;
    assert_eq!(subscription["status"], "active");
    let path = format!("/v1/subscriptions/{}", subscription["id"].as_str().unwrap());
    let item = subscription["items"]["data"][0]["id"].as_str().unwrap();
    let change = format!(
        "items[0][id]={item}&items[0][price]={}&proration_behavior=always_invoice&payment_behavior=pending_if_incomplete",
        plans.enterprise
    );
    let expand = format!("{path}?expand[]=customer.invoice_settings.default_payment_method");
    let method = async || {
        let shown = rig.client.get(&expand).await;
        shown["customer"]["invoice_settings"]["default_payment_method"]["type"].clone()
    };
    assert_eq!(method().await, "us_bank_account");
    assert!(says(&rig.client.post(&path, &change).await).contains("`us_bank_account`"));
    rig.control.set_card(&customer, Some(Card::Ok)).unwrap();
    assert_eq!(method().await, "card");
    let changed = rig.client.ok(&path, &change).await;
    assert_eq!(changed["items"]["data"][0]["price"]["id"], plans.enterprise.as_str());
    assert_eq!(rig.control.violations(), [""; 0]);
}
