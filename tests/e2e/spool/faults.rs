//! NATS is killed, paused and flickering under load.

use super::*;

/// How long NATS is unavailable. Set `SPOOL_OUTAGE_SECONDS` to try a longer outage by hand.
fn outage() -> Duration {
    let seconds = std::env::var("SPOOL_OUTAGE_SECONDS").ok();
    Duration::from_secs(seconds.map_or(15, |seconds| seconds.parse().unwrap()))
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_killed_under_load_refuses_nothing_and_loses_nothing_on_two_gateways() {
    let (mut stack, ada) = stack(2, &[]).await;
    // Customers of several shards, so that lanes share writes.
    let others = [
        customer(&stack, "bob", 100_000_000).await,
        customer(&stack, "eve", 100_000_000).await,
    ];
    let load = Load::start(&stack, &ada, 16);
    let other_loads = others.each_ref().map(|other| Load::start(&stack, other, 8));
    load.accepts(500).await;
    stack.nats.kill().await.unwrap();
    // An outage needs a fixed length, so this waits for a time instead of a condition.
    tokio::time::sleep(outage()).await;
    assert_eq!(state_of_runs(&stack).await, ["spooling", "spooling"]);
    for gateway in 0..2 {
        assert!(metric(&stack, gateway, "gateway_spool_batches").await > 0.0);
        let ready = format!("{}/readyz", stack.gateways[gateway].service.admin_url());
        let ready = devstack::http::Http::default().get(&ready, "").await.unwrap();
        let lines = String::from_utf8_lossy(&ready.body);
        assert_eq!(ready.status, 200, "{lines}");
        assert!(
            lines.contains("stream: unavailable, recording to the spool (since "),
            "{lines}"
        );
    }
    load.accepts(500).await;
    let back = Instant::now();
    stack.nats.restart().await.unwrap();
    is_drained(&stack).await;
    eprintln!("drained {:?} after NATS came back", back.elapsed());
    load.accepts(500).await;

    let mut accepted_by_all = 0;
    let [bob, eve] = &others;
    let [bobs, eves] = other_loads;
    for (customer, load) in [(&ada, load), (bob, bobs), (eve, eves)] {
        let responses = load.end().await;
        let accepted = responses.accepted.load(Relaxed);
        eprintln!(
            "{accepted} accepted; the slowest took {} ms",
            responses.slowest_ms.load(Relaxed)
        );
        assert_eq!(responses.counts(), [accepted, 0, 0, 0, 0]);
        stack
            .assert_stored(customer.account_id, accepted, accepted as i64)
            .await;
        accepted_by_all += accepted as i64;
    }
    assert!(runs_in(spool_dir(&stack, 0)).is_empty() && runs_in(spool_dir(&stack, 1)).is_empty());
    stack.stop().await.unwrap();
    assert_eq!(granted(&stack).await, accepted_by_all, "unspent units were returned");
    assert_eq!(state_of_runs(&stack).await, ["closed", "closed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_paused_under_load_refuses_nothing_and_loses_nothing() {
    let (mut stack, ada) = stack(1, &[]).await;
    let load = Load::start(&stack, &ada, 16);
    load.accepts(200).await;
    stack.nats.pause().unwrap();
    is_spooling(&stack, 1).await;
    // Long enough for the client to treat the connection as dead.
    tokio::time::sleep(outage()).await;
    load.accepts(200).await;
    stack.nats.resume().unwrap();
    is_drained(&stack).await;
    load.accepts(200).await;
    let responses = load.end().await;
    let accepted = responses.accepted.load(Relaxed);
    assert_eq!(responses.counts(), [accepted, 0, 0, 0, 0]);
    stack.assert_stored(ada.account_id, accepted, accepted as i64).await;
    stack.stop().await.unwrap();
    assert_eq!(granted(&stack).await, accepted as i64);
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_nats_outages_lose_and_double_nothing() {
    let (mut stack, ada) = stack(1, &[]).await;
    let load = Load::start(&stack, &ada, 16);
    for round in 0..8 {
        load.accepts(100).await;
        match round % 2 {
            0 => {
                stack.nats.kill().await.unwrap();
                is_spooling(&stack, 1).await;
                load.accepts(100).await;
                stack.nats.restart().await.unwrap();
            }
            _ => {
                // This may also interrupt the drain of the previous outage.
                stack.nats.kill().await.unwrap();
                stack.nats.restart().await.unwrap();
            }
        }
    }
    is_drained(&stack).await;
    let responses = load.end().await;
    let accepted = responses.accepted.load(Relaxed);
    assert_eq!(responses.counts(), [accepted, 0, 0, 0, 0]);
    stack.assert_stored(ada.account_id, accepted, accepted as i64).await;
    stack.stop().await.unwrap();
    assert_eq!(granted(&stack).await, accepted as i64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_is_exact_across_an_outage_on_two_gateways() {
    const LIMIT: i64 = 3_000;
    let (mut stack, _) = stack(2, &[]).await;
    let bob = customer(&stack, "bob", LIMIT).await;
    let load = Load::start(&stack, &bob, 16);
    load.accepts(300).await;
    stack.nats.kill().await.unwrap();
    is_spooling(&stack, 2).await;
    // Leases are also granted while a run spools, so the limit is reached during the outage.
    eventually("the limit is reached", async || {
        (load.responses.over_limit.load(Relaxed) > 20).then_some(())
    })
    .await;
    stack.nats.restart().await.unwrap();
    is_drained(&stack).await;
    eventually("the remaining units are returned and spent", async || {
        (load.responses.accepted.load(Relaxed) >= LIMIT as u64).then_some(())
    })
    .await;
    let responses = load.end().await;
    assert_eq!(responses.accepted.load(Relaxed), LIMIT as u64);
    assert_eq!(responses.refused.load(Relaxed) + responses.unknown.load(Relaxed), 0);
    stack.assert_stored(bob.account_id, LIMIT as u64, LIMIT).await;
    stack.stop().await.unwrap();
    assert_eq!(granted(&stack).await, LIMIT);
}
