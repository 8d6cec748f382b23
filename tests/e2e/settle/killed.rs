//! Gateways are killed (`kill -9`) under load.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Instant,
};

use devstack::http::Http;
use harness::{Stack, eventually};

use super::rig::{History, SpendOutcome, accepted, assert_granted_is_stored, load, options, runs, until_settled};
use crate::SERVICES;

#[tokio::test(flavor = "multi_thread")]
async fn gateways_killed_in_turn_return_exactly_their_unspent_units() {
    const GATEWAYS: usize = 3;
    let mut stack = Stack::start(SERVICES, options(GATEWAYS)).await.unwrap();
    let ada = stack.admin.customer("ada", "enterprise").await.unwrap();
    let urls: Vec<_> = stack.gateways.iter().map(|gateway| gateway.url.clone()).collect();
    let history = History::default();
    for round in 0..5 {
        let victim = round % GATEWAYS;
        let (stop, before) = (AtomicBool::new(false), runs(&stack.pool, "live").await);
        let killing = async {
            accepted(&history, history.accepted.load(Relaxed) + 300).await;
            let service = &mut stack.gateways[victim].service;
            service.kill().await.unwrap();
            let killed = Instant::now();
            // Meanwhile the others continue.
            accepted(&history, history.accepted.load(Relaxed) + 100).await;
            eventually("one of the runs is settled", async || {
                let settled = runs(&stack.pool, "settled").await;
                before.iter().any(|run| settled.contains(run)).then_some(())
            })
            .await;
            println!("round {round}: settled {:.1?} after the kill", killed.elapsed());
            stop.store(true, Relaxed);
        };
        tokio::join!(killing, load(&urls, 6, &ada, &history, &stop));
        let live = runs(&stack.pool, "live").await;
        assert_eq!(live.len(), GATEWAYS - 1, "the other gateways are alive");
        assert!(live.iter().all(|run| before.contains(run)), "in their runs");
        history.assert_true(&stack, ada.account_id).await;
        assert_granted_is_stored(&stack, ada.account_id).await;
        stack.gateways[victim].service.restart().await.unwrap();
    }

    // All units that came back can be spent, and no more.
    let stored = stack.sums(ada.account_id).await.unwrap().units;
    let limit = stored + 150;
    stack.admin.set_limit(ada.account_id, "api_call", limit).await.unwrap();
    let http = Http::default();
    eventually("the limit is reached", async || {
        for gateway in &urls {
            while history.spend(&http, gateway, &ada).await == SpendOutcome::Accepted {}
        }
        (stack.sums(ada.account_id).await.ok()?.units >= limit).then_some(())
    })
    .await;
    history.assert_true(&stack, ada.account_id).await;
    assert_granted_is_stored(&stack, ada.account_id).await;
    assert_eq!(stack.sums(ada.account_id).await.unwrap().units, limit);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_closed_normally_is_settled_in_time() {
    let mut stack = Stack::start(SERVICES, options(1)).await.unwrap();
    let ada = stack.admin.customer("ada", "pro").await.unwrap();
    let history = History::default();
    assert_eq!(
        history.spend(&Http::default(), stack.gateway(0), &ada).await,
        SpendOutcome::Accepted
    );
    let [run] = runs(&stack.pool, "live").await[..] else {
        panic!("one gateway has one run");
    };
    let stopped = stack.gateways[0].service.stop(harness::PATIENCE).await.unwrap();
    assert!(stopped.success());
    assert_eq!(runs(&stack.pool, "closed").await, [run]);
    until_settled(&stack.pool, run).await;
    history.assert_true(&stack, ada.account_id).await;
    assert_granted_is_stored(&stack, ada.account_id).await;
}
