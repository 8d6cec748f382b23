//! Gateways and a subscription that is paid per year: its limits are for a month.

use harness::StackOptions;
use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::rig::{PLANS, Rig};

const DAY_S: i64 = 86_400;

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_a_yearly_plan_lasts_a_month() {
    let yearly = "prices = { month = 2900, year = 29000 }";
    let options = StackOptions {
        catalogue: Some(PLANS.replacen("prices = { month = 2900 }", yearly, 1)),
        // The year began 40 days ago, so its second month runs.
        stripe_behind_s: 40 * DAY_S,
        ..StackOptions::default()
    };
    let rig = Rig::start("free", options).await;
    let body = json!({ "tier": "pro", "interval": "year" });
    let opened = rig.post("create-checkout-session", body).await.ok().unwrap();
    let session = opened["session_id"].as_str().unwrap();
    rig.stripe().complete_checkout(session).unwrap();
    rig.until_on("pro").await;
    let shown = rig.get("subscription").await;
    let at = |field: &str| OffsetDateTime::parse(shown[field].as_str().unwrap(), &Rfc3339).unwrap();
    let (start, end) = (at("period_start"), at("period_end"));
    assert_eq!(shown["interval"], "year");
    assert!(
        (28..=31).contains(&(start - at("paid_period_start")).whole_days()),
        "{shown}"
    );
    assert!((28..=31).contains(&(end - start).whole_days()), "{shown}");

    // In the first month, everything was used.
    sqlx::query(
        "insert into quota_pool (account_id, usage_type, period_start, period_end, limit_units, granted_units)
         values ($1, 'sentiment_analysis', $2, $3, 2000, 2000)",
    )
    .bind(rig.ada.account_id.0)
    .bind(at("paid_period_start"))
    .bind(start)
    .execute(&rig.stack.pool)
    .await
    .unwrap();
    let limit = rig.limit("sentiment_analysis").await["limit"].as_i64().unwrap();
    let (status, spent) = rig.spend(0, "sentiment_analysis", limit).await;
    assert_eq!(status, 200, "{spent}");
    let refused = rig.client(0).spend("sentiment_analysis", 1).await.unwrap();
    assert_eq!(refused.status.as_u16(), 429);
    let retry_after: i64 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!(retry_after <= 31 * DAY_S, "{retry_after}");
    let resets_at = refused.json().unwrap()["resets_at"].clone();
    assert_eq!(resets_at, shown["period_end"]);
    assert_eq!(rig.stripe().violations(), Vec::<String>::new());
}
