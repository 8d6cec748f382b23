//! Prices in several currencies: `currency_options`, and what a subscription in one of them costs.

use serde_json::{Value, json};
use stripe_double::{BillingSettings, StripeDoubleOptions};

use crate::client::message;
use crate::rig::Rig;
use crate::timeline::{DAY, START, period, starting, time};

/// A plan of $29 or €27 a month, one of $299 or €280, and calls: 1,000 included, then 1 ¢ or 0.9 euro cents each.
struct Prices {
    plan: String,
    large: String,
    calls: String,
}

impl Rig {
    async fn prices(&self) -> Prices {
        let meter = "display_name=Calls&event_name=api_call&default_aggregation[formula]=sum";
        let meter = self.client.id("/v1/billing/meters", meter).await;
        let product = self.client.id("/v1/products", "name=Plan").await;
        let price = |rest: &str| format!("product={product}&currency=usd&recurring[interval]=month&{rest}");
        let plan = price("unit_amount=2900&currency_options[eur][unit_amount]=2700");
        let large = price("unit_amount=29900&currency_options[eur][unit_amount]=28000");
        let tiers = |at: &str, unit: &str| {
            format!("{at}[0][up_to]=1000&{at}[0][unit_amount]=0&{at}[1][up_to]=inf&{at}[1][unit_amount_decimal]={unit}")
        };
        let calls = price(&format!(
            "recurring[usage_type]=metered&recurring[meter]={meter}&billing_scheme=tiered&tiers_mode=graduated&{}&{}",
            tiers("tiers", "1"),
            tiers("currency_options[eur][tiers]", "0.9")
        ));
        Prices {
            plan: self.client.id("/v1/prices", &plan).await,
            large: self.client.id("/v1/prices", &large).await,
            calls: self.client.id("/v1/prices", &calls).await,
        }
    }

    fn newest(&self, customer: &str) -> Value {
        self.control.invoices(customer).pop().unwrap()
    }

    async fn in_euros(&self, prices: &Prices, customer: &str) -> Value {
        let create = format!(
            "customer={customer}&currency=eur&items[0][price]={}&items[1][price]={}",
            prices.plan, prices.calls
        );
        self.client.ok("/v1/subscriptions", &create).await
    }
}

#[tokio::test]
async fn options_and_their_tiers_are_shown_when_they_are_expanded() {
    let rig = Rig::start(StripeDoubleOptions::default()).await;
    let prices = rig.prices().await;
    let read = async |id: &str, expand: &str| rig.client.get(&format!("/v1/prices/{id}?{expand}")).await;
    assert!(read(&prices.plan, "").await.get("currency_options").is_none());
    let plan = read(&prices.plan, "expand[]=currency_options").await;
    let amount = |currency: &str| plan["currency_options"][currency]["unit_amount"].clone();
    assert_eq!((amount("usd"), amount("eur")), (json!(2_900), json!(2_700)));
    let calls = read(&prices.calls, "expand[]=currency_options").await;
    assert!(calls["currency_options"]["eur"].get("tiers").is_none(), "{calls}");
    let calls = read(&prices.calls, "expand[]=tiers&expand[]=currency_options.eur.tiers").await;
    let euro = &calls["currency_options"]["eur"]["tiers"];
    assert_eq!(
        (&euro[0]["up_to"], &euro[1]["unit_amount_decimal"]),
        (&json!(1_000), &json!("0.9"))
    );
    assert_eq!(calls["tiers"][1]["unit_amount_decimal"], "1");
    let path = format!("/v1/prices/{}?expand[]=currency_options.gbp.tiers", prices.calls);
    let refused = rig.client.send(http::Method::GET, &path, "", "").await.unwrap();
    assert_eq!(refused.status, 400);
    assert_eq!(rig.control.violations(), [""; 0]);
}

#[tokio::test]
async fn a_subscription_in_another_currency_is_billed_in_it() {
    let rig = Rig::start(starting(BillingSettings::default())).await;
    let (prices, customer) = (rig.prices().await, rig.customer().await);
    let subscription = rig.in_euros(&prices, &customer).await;
    let (id, (_, end)) = (subscription["id"].as_str().unwrap(), period(&subscription));
    assert_eq!(subscription["currency"], "eur");
    assert_eq!(
        rig.client.get(&format!("/v1/customers/{customer}")).await["currency"],
        "eur"
    );
    let first = rig.newest(&customer);
    assert_eq!((&first["currency"], &first["total"]), (&json!("eur"), &json!(2_700)));

    // A change in the middle of the period credits and charges euros.
    rig.control.advance_to(START + 14 * DAY);
    let item = subscription["items"]["data"][0]["id"].as_str().unwrap();
    let change = format!(
        "items[0][id]={item}&items[0][price]={}&proration_behavior=always_invoice",
        prices.large
    );
    rig.client.ok(&format!("/v1/subscriptions/{id}"), &change).await;
    let change = rig.newest(&customer);
    let lines: Vec<i64> = change["lines"]["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| time(line, "amount"))
        .collect();
    // 14 of 28 days are left.
    assert_eq!((&change["currency"], lines), (&json!("eur"), vec![-1_350, 14_000]));

    rig.control.advance_to(START + 15 * DAY);
    rig.client
        .meter(&customer, "a", 1_500, START + 15 * DAY)
        .await
        .ok()
        .unwrap();
    rig.control.advance_to(end + 1);
    let renewal = rig.newest(&customer);
    // 500 calls at 0.9 cents.
    assert_eq!(
        (&renewal["currency"], &renewal["total"]),
        (&json!("eur"), &json!(28_000 + 450))
    );
    assert_eq!(rig.control.violations(), [""; 0]);
}

#[tokio::test]
async fn a_checkout_is_in_the_currency_that_it_names_or_that_the_customer_pays_in() {
    let rig = Rig::start(StripeDoubleOptions::default()).await;
    let (prices, customer) = (rig.prices().await, rig.customer().await);
    let checkout = |currency: &str| {
        format!(
            "mode=subscription&customer={customer}&success_url=http://x&line_items[0][price]={}&line_items[0][quantity]=1{currency}",
            prices.plan
        )
    };
    let open = async |currency: &str| rig.client.ok("/v1/checkout/sessions", &checkout(currency)).await;
    let amount = |session: &Value| (session["currency"].clone(), time(session, "amount_total"));
    assert_eq!(amount(&open("").await), (json!("usd"), 2_900));
    let session = open("&currency=eur").await;
    assert_eq!(amount(&session), (json!("eur"), 2_700));
    rig.control.complete_checkout(session["id"].as_str().unwrap()).unwrap();
    assert_eq!(rig.newest(&customer)["amount_paid"], 2_700);
    assert_eq!(amount(&open("").await), (json!("eur"), 2_700));
    let refused = rig
        .client
        .post("/v1/checkout/sessions", &checkout("&currency=usd"))
        .await;
    assert!(
        message(&refused).starts_with("You cannot combine currencies"),
        "{refused:?}"
    );
    let refused = rig
        .client
        .post("/v1/checkout/sessions", &checkout("&currency=gbp"))
        .await;
    assert_eq!(refused.status, 400);
    assert_eq!(rig.control.violations(), [""; 0]);
}

#[tokio::test]
async fn a_price_that_lacks_the_currency_is_refused_wherever_a_call_names_it() {
    let rig = Rig::start(StripeDoubleOptions::default()).await;
    let (prices, customer) = (rig.prices().await, rig.customer().await);
    let product = rig.client.id("/v1/products", "name=Dollars").await;
    let dollars = format!("product={product}&currency=usd&recurring[interval]=month&unit_amount=4900");
    let dollars = rig.client.id("/v1/prices", &dollars).await;
    let subscription = rig.in_euros(&prices, &customer).await;
    let (id, item) = (subscription["id"].as_str().unwrap(), &subscription["items"]["data"][0]);
    let schedule = format!("from_subscription={id}");
    let schedule = rig.client.ok("/v1/subscription_schedules", &schedule).await;
    assert_eq!(schedule["phases"][0]["currency"], "eur");
    let phases = |currency: &str, next: &str| {
        let (start, end) = (&item["current_period_start"], &item["current_period_end"]);
        let (plan, calls) = (&prices.plan, &prices.calls);
        format!(
            "phases[0][start_date]={start}&phases[0][end_date]={end}&phases[0][items][0][price]={plan}&\
             phases[0][items][1][price]={calls}&phases[1][items][0][price]={next}&phases[1][currency]={currency}"
        )
    };
    let schedule = format!("/v1/subscription_schedules/{}", schedule["id"].as_str().unwrap());
    for (path, body) in [
        (
            "/v1/subscriptions".to_owned(),
            format!("customer={customer}&currency=eur&items[0][price]={dollars}"),
        ),
        (
            format!("/v1/subscriptions/{id}"),
            format!(
                "items[0][id]={}&items[0][price]={dollars}",
                item["id"].as_str().unwrap()
            ),
        ),
        (schedule.clone(), phases("eur", &dollars)),
        (
            "/v1/checkout/sessions".to_owned(),
            format!(
                "mode=subscription&currency=eur&success_url=http://x&line_items[0][price]={dollars}&line_items[0][quantity]=1"
            ),
        ),
    ] {
        let refused = rig.client.post(&path, &body).await;
        let said = "The price specified only supports `usd`. This doesn't match the expected currency: `eur`.";
        assert_eq!(
            (refused.status.as_u16(), message(&refused).as_str()),
            (400, said),
            "{path}"
        );
    }
    assert_eq!(
        rig.client.post(&schedule, &phases("usd", &prices.large)).await.status,
        400
    );
    let planned = rig.client.ok(&schedule, &phases("eur", &prices.large)).await;
    assert_eq!(planned["phases"][1]["currency"], "eur");
    assert_eq!(rig.control.violations(), [""; 0]);
}
