//! A cap is set, raised, lowered and removed.

use serde_json::{Value, json};

use super::{Rig, on_pro};

#[tokio::test(flavor = "multi_thread")]
async fn a_cap_below_what_is_used_is_refused_and_changes_nothing() {
    let rig = on_pro(2).await;
    assert_eq!(rig.decide(0, "api_call", 1_200).await.0, 200);
    rig.until_stored("api_call", 1_200).await;
    let refuse = async |cents: i64| {
        let refused = rig.put_cap(json!(cents)).await;
        assert_eq!(refused.status.as_u16(), 422);
        let problem = refused.json().unwrap();
        let shown = ["error", "used_cents", "cap_cents"].map(|member| problem[member].clone());
        assert_eq!(shown, [json!("spend_cap_below_usage"), json!(300), json!(cents)]);
        let message = problem["message"].as_str().unwrap();
        assert!(
            message.contains("set `cents` to 300 to stop now, or to more"),
            "{message}"
        );
    };
    refuse(299).await;
    refuse(0).await;
    let none = rig.get("spend-cap").await;
    assert_eq!((&none["cents"], &none["used_cents"]), (&Value::Null, &json!(300)));
    assert_eq!(rig.get("usage").await["spend_cap"], Value::Null);
    let stored = "select (select count(*) from spend_caps) + (select count(*) from quota_pool)
                      + (select count(*) from audit_log where action like 'spend_cap%')";
    assert_eq!(rig.count(stored).await, 0);
    assert_eq!(rig.decide(1, "api_call", 20).await.0, 200);
    rig.until_stored("api_call", 1_220).await;
    for cents in [
        json!(-1),
        json!("300"),
        json!(null),
        json!(1.5),
        json!(1_000_000_000_000i64),
    ] {
        let refused = rig.put_cap(cents.clone()).await;
        assert_eq!(refused.status.as_u16(), 400, "{cents}");
        let message = refused.json().unwrap()["message"].as_str().unwrap().to_owned();
        assert!(message.contains("`cents`"), "{message}");
    }

    rig.cap(330).await;
    rig.assert_refused("api_call", 1, 330, 330).await;
    let refused = rig.put_cap(json!(329)).await;
    assert_eq!(refused.status.as_u16(), 422);
    let kept = rig.get("spend-cap").await;
    assert_eq!(kept["cents"], 330);
    assert!(kept["in_force_since"].is_string());
    assert_eq!(kept["usage_types"], json!(["api_call", "export"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raised_cap_admits_again_within_seconds_and_a_removed_one_too() {
    let rig = on_pro(2).await;
    rig.cap(100).await;
    assert_eq!(rig.decide(0, "export", 3).await.0, 200);
    rig.assert_refused("export", 1, 100, 100).await;
    rig.cap(200).await;
    rig.until_admitted(1, "export", 3).await;
    rig.assert_refused("export", 1, 200, 200).await;
    rig.remove_cap().await;
    for gateway in 0..2 {
        rig.until_admitted(gateway, "export", 5).await;
    }
    rig.until_stored("export", 16).await;
    assert_eq!(rig.get("spend-cap").await["used_cents"], 533);
    // Again, with what was used meanwhile. The operator may do it as well.
    let url = |path: &str| {
        let (admin, account) = (rig.stack.billing.admin_url(), rig.ada.account_id);
        format!("{admin}/admin/{}", path.replace("ada", &account.to_string()))
    };
    let token = &rig.stack.admin_token;
    let body = json!({ "cents": 600 });
    let set = rig
        .http
        .put(&url("accounts/ada/spend-cap"), token, &body)
        .await
        .unwrap();
    assert_eq!(set.ok().unwrap()["used_cents"], 533);
    rig.until_in_force().await;
    assert_eq!(rig.decide(0, "export", 2).await.0, 200);
    rig.assert_refused("export", 1, 600, 600).await;
    let audited = rig
        .http
        .get(&url("audit?account=ada"), token)
        .await
        .unwrap()
        .ok()
        .unwrap();
    let entries = audited["items"].as_array().unwrap();
    let of_cap = |entry: &&Value| entry["action"].as_str().unwrap().starts_with("spend_cap.");
    let actions: Vec<_> = entries
        .iter()
        .filter(of_cap)
        .map(|entry| entry["action"].clone())
        .collect();
    assert_eq!(
        actions,
        ["spend_cap.set", "spend_cap.set", "spend_cap.remove", "spend_cap.set"],
        "{audited}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lowered_cap_holds_for_units_that_gateways_hold() {
    let rig = on_pro(2).await;
    rig.cap(1_000_000).await;
    for gateway in 0..2 {
        assert_eq!(rig.decide(gateway, "export", 1).await.0, 200);
    }
    rig.until_stored("export", 2).await;
    rig.cap(100).await;
    let (first, second) = (rig.decide(0, "export", 1).await.0, rig.decide(1, "export", 1).await.0);
    assert_eq!((first, second), (200, 429), "the third export costs $1.00 together");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_pays_for_no_usage_sets_its_cap_before_it_does() {
    let rig = Rig::start("free", harness::StackOptions::default()).await;
    let set = rig.put_cap(json!(50)).await.ok().unwrap();
    assert_eq!(
        (&set["cents"], &set["used_cents"], &set["usage_types"]),
        (&json!(50), &json!(0), &json!([]))
    );
    assert_eq!(rig.decide(0, "api_call", 100).await.0, 200);
    let (status, problem) = rig.decide(0, "api_call", 1).await;
    assert_eq!((status, &problem["error"]), (429, &json!("rate_limit_exceeded")));
    rig.until_in_force().await;
    rig.subscribe("pro").await;
    assert_eq!(rig.decide(0, "export", 1).await.0, 200);
    rig.assert_refused("export", 1, 33, 50).await;
}
