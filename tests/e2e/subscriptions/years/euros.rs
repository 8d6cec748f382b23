//! A year in another currency than US dollars.

use billing_worker::reports::money::Source;
use devstack::StripeDoubleOptions;
use schema::Catalogue;
use serde_json::{Value, json};

use super::{
    super::rig::{DAY_S, Rig},
    PLANS,
};

/// Pro is 27 euros a month and 270 a year. Calls are 1.4 euro cents, and exports 30.
fn plans() -> Catalogue {
    let text = PLANS
        .replacen(
            "{ month = 2900, year = 29000 }",
            "{ month = { usd = 2900, eur = 2700 }, year = { usd = 29000, eur = 27000 } }",
            1,
        )
        .replacen(
            "unit_price_micros = 15_000",
            "unit_price_micros = { usd = 15_000, eur = 14_000 }",
            1,
        )
        .replacen(
            "unit_price_micros = 333_333",
            "unit_price_micros = { usd = 333_333, eur = 300_000 }",
            1,
        );
    Catalogue::parse(&text).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_year_and_the_units_of_its_months_are_paid_in_the_currency_of_the_account() {
    let options = StripeDoubleOptions {
        start_at: Some(1_800_000_010),
        ..StripeDoubleOptions::default()
    };
    let rig = Rig::with(options, plans()).await;
    rig.listen();
    let ada = rig.subscriber("ada").await;
    let asked = json!({ "tier": "pro", "interval": "year", "currency": "eur" });
    let opened = rig.post(&ada, "create-checkout-session", asked).await.ok().unwrap();
    rig.control()
        .complete_checkout(opened["session_id"].as_str().unwrap())
        .unwrap();
    rig.settle().await;
    let shown = rig.subscription(&ada).await;
    assert_eq!(
        [&shown["interval"], &shown["currency"], &shown["price_cents"]],
        [&json!("year"), &json!("eur"), &json!(27_000)]
    );
    rig.turn_by(DAY_S);
    rig.use_units(&ada, "api_call", 1_500).await;
    rig.use_units(&ada, "export", 7).await;
    rig.charge().await;
    assert_eq!(rig.get(&ada, "usage").await["usage_cents"], 700 + 210);
    rig.end_month(&ada).await;
    assert_eq!(rig.totals(&ada), [27_000, 910]);
    let invoices = rig.control().invoices(&rig.customers(&ada)[0]);
    let currencies: Vec<&Value> = invoices.iter().map(|invoice| &invoice["currency"]).collect();
    assert_eq!(currencies, [&json!("eur"), &json!("eur")]);
    for source in [Source::Copies, Source::Stripe] {
        let totals = rig.reconciled(source).await.totals;
        assert_eq!((totals.differing, totals.differing_periods), (0, 0), "{totals:?}");
        let invoiced: Vec<_> = totals
            .money
            .iter()
            .map(|(currency, sums)| (currency.as_str(), sums.invoiced_cents))
            .collect();
        assert_eq!(invoiced, [("eur", 27_910)]);
    }
    rig.assert_valid();
}
