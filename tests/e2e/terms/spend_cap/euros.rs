//! A cap is in the currency of the account, and so are the prices that count towards it.

use harness::StackOptions;
use serde_json::{Value, json};

use super::super::rig::{AGE_S, PLANS, Rig};

/// Pro costs 27 euros. Calls past the included ones are 1.4 euro cents, and exports 30.
fn plans() -> String {
    let (pro, rest) = PLANS.split_once("id = \"pro\"").unwrap();
    let rest = rest
        .replacen(
            "prices = { month = 2900 }",
            "prices.month = { usd = 2900, eur = 2700 }",
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
    format!("{pro}id = \"pro\"{rest}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cap_in_euros_stops_at_what_units_cost_in_euros() {
    let options = StackOptions {
        gateways: 2,
        catalogue: Some(plans()),
        ..StackOptions::default()
    };
    let rig = Rig::start("free", options).await;
    rig.check_out("pro", json!({ "tier": "pro", "currency": "eur" })).await;
    rig.stripe().advance_by(AGE_S);
    rig.cap(100).await;
    assert_eq!(rig.get("spend-cap").await["currency"], "eur");
    // Three exports are 0.90 euros. In US dollars they would be the whole cap.
    for gateway in [0, 1, 0] {
        assert_eq!(rig.decide(gateway, "export", 1).await.0, 200);
    }
    rig.assert_refused("export", 1, 90, 100).await;
    // 7 calls are 0.10 euros.
    assert_eq!(rig.decide(1, "api_call", 1_000).await.0, 200);
    for call in 0..7 {
        assert_eq!(rig.decide(call % 2, "api_call", 1).await.0, 200);
    }
    rig.assert_refused("api_call", 1, 100, 100).await;
    rig.until_stored("api_call", 1_007).await;
    rig.until_stored("export", 3).await;
    rig.cancelled().await;
    let invoices = rig.stripe().invoices(&rig.stripe_customer());
    let shown: Vec<(&Value, &Value)> = invoices.iter().map(|one| (&one["currency"], &one["total"])).collect();
    assert_eq!(shown, [(&json!("eur"), &json!(2_700)), (&json!("eur"), &json!(100))]);
    assert_eq!(rig.stripe().violations(), Vec::<String>::new());
}
