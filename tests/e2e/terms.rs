//! What an account may use is what it pays for: limits agreed with an account, and plans that bill usage without a payer.

mod rig;
mod spend_cap;
mod trial;
mod versions;
mod years;

use devstack::http::Http;
use harness::StackOptions;
use serde_json::{Value, json};

use self::rig::{AGE_S, Rig};

/// Requests to the admin API.
async fn admin_get(rig: &Rig, path: &str) -> Value {
    let url = format!("{}/admin{path}", rig.stack.billing.admin_url());
    Http::default()
        .get(&url, &rig.stack.admin_token)
        .await
        .unwrap()
        .ok()
        .unwrap()
}

fn names(plans: &Value) -> Vec<&str> {
    let plans = plans["plans"].as_array().unwrap();
    plans.iter().map(|plan| plan["id"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_override_that_no_price_follows_is_refused() {
    let rig = Rig::start("pro", StackOptions::default()).await;
    let url = |usage_type: &str| {
        let (admin, account) = (rig.stack.billing.admin_url(), rig.ada.account_id);
        format!("{admin}/admin/accounts/{account}/limits/{usage_type}")
    };
    let set = async |usage_type: &str| {
        let body = json!({ "limit_units": 900_000 });
        let http = Http::default();
        http.put(&url(usage_type), &rig.stack.admin_token, &body).await.unwrap()
    };
    for (usage_type, included) in [("api_call", "1000 units"), ("export", "0 units")] {
        let refused = set(usage_type).await;
        assert_eq!(refused.status.as_u16(), 409);
        let problem = refused.json().unwrap();
        assert_eq!(problem["error"], "override_not_billable");
        let message = problem["message"].as_str().unwrap();
        for part in ["`pro`", usage_type, included, "`listed = false`"] {
            assert!(message.contains(part), "{message}");
        }
    }
    let stored: i64 = sqlx::query_scalar("select count(*) from limit_overrides")
        .fetch_one(&rig.stack.pool)
        .await
        .unwrap();
    assert_eq!(stored, 0);
    assert_eq!(set("sentiment_analysis").await.status.as_u16(), 200);
    assert_eq!(rig.limit("sentiment_analysis").await["limit"], 900_000);

    // What to do instead: a plan that only the operator sees and gives.
    assert_eq!(names(&rig.get("plans").await), ["free", "team", "pro"]);
    assert_eq!(names(&admin_get(&rig, "/plans").await), ["free", "team", "pro", "acme"]);
    let refused = rig.post("create-checkout-session", json!({ "tier": "acme" })).await;
    assert_eq!(refused.json().unwrap()["error"], "not_for_sale");
    let unknown = rig.post("create-checkout-session", json!({ "tier": "gold" })).await;
    let message = unknown.json().unwrap()["message"].as_str().unwrap().to_owned();
    assert!(
        message.contains("known: free, team, pro") && !message.contains("acme"),
        "{message}"
    );
    rig.stack.admin.assign(rig.ada.account_id, "acme").await.unwrap();
    assert_eq!(rig.limit("api_call").await["limit"], 900_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_shown_as_included_is_what_the_price_includes() {
    let rig = Rig::start("free", StackOptions::default()).await;
    for usage_type in ["api_call", "export"] {
        rig.stack
            .admin
            .set_limit(rig.ada.account_id, usage_type, 7)
            .await
            .unwrap();
    }
    let free = rig.limit("api_call").await;
    assert_eq!((&free["limit"], &free["overridden"]), (&json!(7), &json!(true)));

    rig.subscribe("pro").await;
    rig.stripe().advance_by(AGE_S);
    let limit = rig.limit("api_call").await;
    assert_eq!((&limit["mode"], &limit["limit"]), (&json!("overage"), &json!(1_000)));
    let export = rig.limit("export").await;
    assert_eq!((&export["mode"], &export["limit"]), (&json!("metered"), &Value::Null));
    for shown in [&limit, &export] {
        assert_eq!(
            (&shown["overridden"], &shown["unapplied_override"]),
            (&json!(false), &json!(7))
        );
    }
    for _ in 0..12 {
        let (status, answer) = rig.spend(0, "api_call", 100).await;
        assert_eq!((status, &answer["limit"]), (200, &json!(1_000)));
    }
    rig.until_stored("api_call", 1_200).await;
    let usage = rig.usage("api_call").await;
    assert_eq!((&usage["limit"], &usage["overage"]), (&json!(1_000), &json!(200)));
    rig.cancelled().await;
    assert_eq!(rig.invoices(), [2_900, 300], "200 calls at 1.5 cents");

    // On Free nothing is billed, and the agreed limit applies again.
    rig.until_on("free").await;
    let free = rig.limit("api_call").await;
    assert_eq!((&free["limit"], &free["overridden"]), (&json!(7), &json!(true)));
    assert_eq!(rig.spend(0, "api_call", 8).await.0, 429);
    assert_eq!(rig.spend(0, "api_call", 7).await.0, 200);
}
