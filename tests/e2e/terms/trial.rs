//! Plans that bill usage, without somebody who pays: what is included is the limit, until a subscription is paid.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use harness::{Client, StackOptions, concurrently, count, eventually};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::rig::{AGE_S, Rig};

fn options(trial_overage: &str) -> StackOptions {
    let env = vec![("TRIAL_OVERAGE", trial_overage.to_owned())];
    StackOptions {
        gateways: 2,
        gateway_env: env.clone(),
        billing_env: env,
        ..StackOptions::default()
    }
}

/// Spends calls at both gateways until both refuse. Returns how many were accepted. A machine that is too slow answers some with
/// 503, which counts nothing.
async fn use_up(rig: &Rig) -> usize {
    let clients = [rig.client(0), rig.client(1)];
    let mut accepted = 0;
    loop {
        let answers = concurrently((0..128).map(|n| clients[n % 2].spend("api_call", 1))).await;
        accepted += count(&answers, 200);
        if count(&answers, 429) == answers.len() {
            return accepted;
        }
    }
}

/// 40 calls and no exports are included, and the refusals say what gives more.
async fn assert_stops(rig: &Rig, unbilled: &str, advice: &str) {
    assert_eq!(use_up(rig).await, 40);
    for (usage_type, numbers) in [("api_call", "40 of 40 used"), ("export", "0 of 0 used")] {
        for gateway in 0..2 {
            let (status, problem) = rig.spend(gateway, usage_type, 1).await;
            assert_eq!((status, &problem["error"]), (429, &json!("rate_limit_exceeded")));
            let message = problem["message"].as_str().unwrap();
            assert!(message.contains(numbers) && message.contains(advice), "{message}");
        }
    }
    rig.until_stored("api_call", 40).await;
    for (usage_type, limit) in [("api_call", 40), ("export", 0)] {
        let usage = rig.usage(usage_type).await;
        let shown = ["mode", "limit", "overage", "unbilled"].map(|field| &usage[field]);
        let expected = [json!("limited"), json!(limit), json!(0), json!(unbilled)];
        assert_eq!(shown, [&expected[0], &expected[1], &expected[2], &expected[3]]);
        assert_eq!(rig.limit(usage_type).await["mode"], "limited");
    }
    let pool: (i64, i64) = sqlx::query_as(
        "select limit_units, granted_units from quota_pool where usage_type = 'api_call' and limit_units = 40",
    )
    .fetch_one(&rig.stack.pool)
    .await
    .unwrap();
    assert_eq!(pool, (40, 40));
    // A usage type that the plan does not bill is as ever.
    assert_eq!(rig.spend(0, "sentiment_analysis", 60).await.0, 200);
    assert_eq!(rig.limit("sentiment_analysis").await["unbilled"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trial_with_overage_stops_at_what_is_included() {
    let rig = Rig::start("free", options("refuse")).await;
    // It does not apply to the trial, because the plan bills calls.
    rig.stack
        .admin
        .set_limit(rig.ada.account_id, "api_call", 7)
        .await
        .unwrap();
    rig.subscribe("team").await;
    assert_stops(&rig, "trial", "a trial bills nothing").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_assigned_overage_plan_stops_at_what_is_included() {
    // The setting is about trials only.
    let rig = Rig::start("team", options("free")).await;
    assert_stops(&rig, "no_subscription", "/billing/create-checkout-session").await;

    // As soon as somebody pays, the same usage is billed.
    rig.subscribe("pro").await;
    for gateway in 0..2 {
        assert_eq!(rig.spend(gateway, "api_call", 600).await.0, 200);
        assert_eq!(rig.spend(gateway, "export", 1).await.0, 200);
    }
    rig.until_stored("api_call", 1_200).await;
    let usage = rig.usage("api_call").await;
    assert_eq!(
        (&usage["mode"], &usage["overage"], &usage["unbilled"]),
        (&json!("overage"), &json!(200), &Value::Null)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setting_lets_trials_use_more_without_a_bill() {
    let rig = Rig::start("free", options("free")).await;
    rig.subscribe("team").await;
    for gateway in 0..2 {
        assert_eq!(rig.spend(gateway, "api_call", 50).await.0, 200);
        assert_eq!(rig.spend(gateway, "export", 1).await.0, 200);
    }
    rig.until_stored("api_call", 100).await;
    let usage = rig.usage("api_call").await;
    assert_eq!(
        (&usage["mode"], &usage["limit"], &usage["overage"], &usage["unbilled"]),
        (&json!("overage"), &json!(40), &json!(0), &json!("trial"))
    );
    rig.stripe().advance_by(AGE_S);
    rig.cancelled().await;
    assert!(rig.invoices().iter().all(|cents| *cents == 0), "{:?}", rig.invoices());
}

/// Calls without a pause, from several clients of a gateway. Returns the accepted units by period.
async fn load(client: Client, stop: Arc<AtomicBool>) -> BTreeMap<String, i64> {
    let mut clients = JoinSet::new();
    for _ in 0..8 {
        let (client, stop) = (client.clone(), Arc::clone(&stop));
        clients.spawn(async move {
            let mut accepted: BTreeMap<String, i64> = BTreeMap::new();
            while !stop.load(SeqCst) {
                let answer = client.spend("api_call", 1).await.unwrap();
                assert!([200, 429, 503].contains(&answer.status.as_u16()), "{answer:?}");
                if answer.status == 200 {
                    let period = answer.json().unwrap()["period_start"].as_str().unwrap().to_owned();
                    *accepted.entry(period).or_default() += 1;
                }
            }
            accepted
        });
    }
    let mut all: BTreeMap<String, i64> = BTreeMap::new();
    while let Some(accepted) = clients.join_next().await {
        for (period, units) in accepted.unwrap() {
            *all.entry(period).or_default() += units;
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_billed_exactly_from_the_end_of_the_trial_under_load() {
    let rig = Rig::start("free", options("refuse")).await;
    rig.subscribe("team").await;
    rig.stripe().advance_by(AGE_S);
    let trial = rig.get("subscription").await;
    assert_eq!(use_up(&rig).await, 40);
    let stop = Arc::new(AtomicBool::new(false));
    let mut loads = JoinSet::new();
    for gateway in 0..2 {
        loads.spawn(load(rig.client(gateway), Arc::clone(&stop)));
    }

    // The customer pays from now on.
    rig.end_trial(trial["stripe_subscription_id"].as_str().unwrap()).await;
    for gateway in 0..2 {
        eventually("the gateway admits more than what is included", async || {
            let usage = rig.client(gateway).get("/v1/usage").await.ok()?.ok().ok()?;
            (usage["usage"][0]["mode"] == "overage").then_some(())
        })
        .await;
        assert_eq!(rig.spend(gateway, "export", 3).await.0, 200);
    }
    let paid = rig.get("subscription").await;
    assert_eq!(paid["status"], "active");
    eventually("more than what is included is stored", async || {
        let units = rig.usage("api_call").await["current_usage"].as_i64()?;
        (units >= 200).then_some(())
    })
    .await;
    stop.store(true, SeqCst);
    let mut accepted: BTreeMap<String, i64> = BTreeMap::new();
    while let Some(of_gateway) = loads.join_next().await {
        for (period, units) in of_gateway.unwrap() {
            *accepted.entry(period).or_default() += units;
        }
    }

    // Nothing was admitted in the trial any more, and all that was admitted afterwards belongs to the paid period.
    let start = paid["period_start"].as_str().unwrap();
    assert_eq!(accepted.keys().collect::<Vec<_>>(), [start]);
    let units = accepted[start];
    rig.until_stored("api_call", units).await;
    let usage = rig.usage("api_call").await;
    assert_eq!(
        (&usage["mode"], &usage["limit"], &usage["overage"], &usage["unbilled"]),
        (&json!("overage"), &json!(40), &json!(units - 40), &Value::Null)
    );
    // The trial and its usage cost nothing, also after its invoice is final. Each further call is 1.5 cents, 6 exports are $2.00.
    rig.stripe().advance_by(2 * AGE_S);
    rig.cancelled().await;
    let calls = ((units - 40) * 15_000 + 5_000) / 10_000;
    let charged: Vec<_> = rig.invoices().into_iter().filter(|cents| *cents != 0).collect();
    assert_eq!(charged, [1_900, calls + 200]);
    assert_eq!(rig.stripe().violations(), Vec::<String>::new());
}
