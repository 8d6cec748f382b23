//! The catalogue changes: gateways admit what an account's version of its plan says, whatever their own file says.

use devstack::{admin::Customer, http::Http};
use harness::{Client, StackOptions, eventually};
use serde_json::{Value, json};

use super::rig::{AGE_S, PLANS, Rig};

/// Pro is dearer and allows less; and there is a larger plan.
fn changed() -> String {
    let larger = r#"
[[plan]]
id = "scale"
name = "Scale"
prices = { month = 19900 }
usage.api_call = { limit = 50_000 }
usage.export = { limit = 900 }
usage.sentiment_analysis = { limit = 7_000 }
"#;
    let pro = PLANS.replace("month = 2900 }", "month = 3900 }").replace(
        "unit_price_micros = 333_333 }\nusage.sentiment_analysis = { limit = 2_000 }",
        "unit_price_micros = 333_333 }\nusage.sentiment_analysis = { limit = 100 }",
    );
    assert_ne!(pro.replace("3900", "2900"), PLANS);
    format!("{pro}{larger}")
}

/// The plan and the limit of a usage type, as a gateway shows them.
async fn at(client: &Client, usage_type: &str) -> (Value, Value) {
    let usage = client.get("/v1/usage").await.unwrap().ok().unwrap();
    let of_type = usage["usage"].as_array().unwrap().iter();
    let of_type = of_type.clone().find(|one| one["usage_type"] == usage_type).unwrap();
    (usage["plan"].clone(), of_type["limit"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_read_the_terms_of_the_version_at_once_after_a_change_of_plan() {
    let options = StackOptions {
        gateways: 2,
        ..StackOptions::default()
    };
    let mut rig = Rig::start("free", options).await;
    rig.subscribe("pro").await;
    rig.stripe().advance_by(AGE_S);
    // The second gateway keeps the old file, as during a roll-out.
    rig.stack.write_catalogue(&changed()).unwrap();
    rig.stack.billing.restart().await.unwrap();
    rig.stack.command(&["stripe", "sync"]).await.unwrap();
    rig.stack.gateways[0].service.restart().await.unwrap();

    let ben = rig.stack.admin.customer("ben", "free").await.unwrap();
    subscribe(&rig, &ben, "pro").await;
    for gateway in 0..2 {
        let (ada, ben) = (rig.client(gateway), Client::new(rig.stack.gateway(gateway), &ben));
        assert_eq!(at(&ada, "sentiment_analysis").await, (json!("pro"), json!(2_000)));
        eventually("the gateway knows ben's plan", async || {
            (at(&ben, "sentiment_analysis").await.0 == "pro").then_some(())
        })
        .await;
        assert_eq!(at(&ben, "sentiment_analysis").await, (json!("pro"), json!(100)));
        assert_eq!(rig.spend(gateway, "sentiment_analysis", 150).await.0, 200);
        let status = async |units: i64| {
            let answer = ben.spend("sentiment_analysis", units).await.unwrap();
            answer.status.as_u16()
        };
        assert_eq!(status(101).await, 429, "gateway {gateway}");
        assert_eq!(status(50).await, 200, "gateway {gateway}");
    }

    // An operator plans the new version for ada's next period. She decides otherwise.
    let migrate = async |options: &[&str]| {
        let arguments = [
            "plans",
            "migrate",
            "--from",
            "pro@1",
            "--to",
            "pro@2",
            "--at-period-end",
        ];
        // An event may have the account's lease at this moment: then the command says that the account failed.
        let printed = eventually("no other work is in progress", async || {
            rig.stack.command(&[&arguments[..], options].concat()).await.ok()
        });
        serde_json::from_str::<Value>(&printed.await).unwrap()
    };
    let said = migrate(&["--dry-run", "--json"]).await;
    let [one] = &said["accounts"].as_array().unwrap()[..] else {
        panic!("{said}")
    };
    assert_eq!(one["account_id"], rig.ada.account_id.to_string());
    assert_eq!(
        (&one["outcome"], &one["price_cents_now"], &one["price_cents_then"]),
        (&json!("would_migrate"), &json!(2_900), &json!(3_900))
    );
    assert_eq!(migrate(&["--json"]).await["accounts"][0]["outcome"], "migrated");
    assert_eq!(rig.get("subscription").await["then_tier"], "pro");
    let listed = rig.stack.command(&["plans", "list", "--json"]).await.unwrap();
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let versions = listed["versions"].as_array().unwrap().iter();
    let of_pro: Vec<_> = versions
        .filter(|version| version["plan"] == "pro")
        .map(|version| {
            (
                version["name"].clone(),
                version["is_current"].clone(),
                version["accounts"].clone(),
            )
        })
        .collect();
    assert_eq!(
        of_pro,
        [
            (json!("pro@1"), json!(false), json!(1)),
            (json!("pro@2"), json!(true), json!(1))
        ]
    );

    // One gateway does not have the new plan in its file.
    eventually("the plan is upgraded", async || {
        let answer = rig.post("upgrade", json!({ "tier": "scale" })).await;
        assert!([200, 503].contains(&answer.status.as_u16()), "{answer:?}");
        (answer.status == 200).then_some(())
    })
    .await;
    for gateway in 0..2 {
        let ada = rig.client(gateway);
        eventually("the gateway knows the plan", async || {
            (at(&ada, "sentiment_analysis").await.0 == "scale").then_some(())
        })
        .await;
        assert_eq!(at(&ada, "sentiment_analysis").await.1, 7_000);
        assert_eq!(rig.spend(gateway, "sentiment_analysis", 3_000).await.0, 200);
    }
    assert_eq!(rig.spend(1, "sentiment_analysis", 1_000).await.0, 429);
    assert_eq!(rig.get("subscription").await["price_cents"], 19_900);
    assert_eq!(rig.stripe().violations(), Vec::<String>::new());
}

async fn subscribe(rig: &Rig, who: &Customer, plan: &str) {
    let url = format!("{}/billing/create-checkout-session", rig.stack.billing_url);
    let opened = Http::default().post(&url, &who.key, &json!({ "tier": plan })).await;
    let opened = opened.unwrap().ok().unwrap();
    let session = opened["session_id"].as_str().unwrap();
    rig.stripe().complete_checkout(session).unwrap();
}
