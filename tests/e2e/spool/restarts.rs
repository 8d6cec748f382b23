//! Gateways that die or are stopped while they spool or drain: the next start continues.

use rand::RngExt;

use super::*;

/// Spools some events and kills the gateway. Returns the recorded responses.
async fn killed_while_spooling(stack: &mut Stack, ada: &Customer, requests: u64) -> Arc<Responses> {
    let load = Load::start(stack, ada, 16);
    load.accepts(100).await;
    stack.nats.kill().await.unwrap();
    is_spooling(stack, 1).await;
    load.accepts(requests).await;
    stack.gateways[0].service.kill().await.unwrap();
    let responses = load.end().await;
    assert_eq!(responses.refused.load(Relaxed) + responses.unknown.load(Relaxed), 0);
    responses
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_killed_while_it_spools_drains_at_its_next_start() {
    let (mut stack, ada) = stack(1, &[]).await;
    let responses = killed_while_spooling(&mut stack, &ada, 500).await;
    assert_eq!(runs_in(spool_dir(&stack, 0)).len(), 1);
    stack.nats.restart().await.unwrap();
    stack.gateways[0].service.restart().await.unwrap();
    assert_eq!(
        state_of_runs(&stack).await,
        ["fencing", "live"],
        "the old run is handed over to be settled"
    );
    assert!(runs_in(spool_dir(&stack, 0)).is_empty());
    assert_stored_between(&stack, &ada, &responses).await;
    let load = Load::start(&stack, &ada, 4);
    load.accepts(50).await;
    load.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_killed_ten_times_while_it_drains_stores_each_event_once() {
    // One event per batch, so that the drain takes longer.
    let (mut stack, ada) = stack(1, &[("BATCH_EVENTS", "1")]).await;
    let responses = killed_while_spooling(&mut stack, &ada, 3_000).await;
    stack.nats.restart().await.unwrap();
    let program = stack.gateways[0].service.process().program().clone();
    let mut cut_short = 0;
    for _ in 0..10 {
        let mut gateway = program.clone().start().unwrap();
        // The kill comes between the connection to NATS and the middle of the drain.
        let wait = rand::rng().random_range(0..100);
        eventually("the gateway starts", async || {
            gateway.has_logged("connected to NATS").then_some(())
        })
        .await;
        tokio::time::sleep(Duration::from_millis(wait)).await;
        gateway.kill().await.unwrap();
        let drained = gateway.has_logged("drained the spool");
        cut_short += u32::from(!drained);
        if drained {
            break;
        }
    }
    assert!(cut_short >= 5, "only {cut_short} drains were cut short");
    eprintln!("{cut_short} drains were cut short");
    stack.gateways[0].service.restart().await.unwrap();
    assert!(runs_in(spool_dir(&stack, 0)).is_empty());
    assert_stored_between(&stack, &ada, &responses).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_killed_while_it_drains_and_serves_stores_each_event_once() {
    let (mut stack, ada) = stack(1, &[]).await;
    let total = Responses::default();
    for _ in 0..4 {
        let load = Load::start(&stack, &ada, 16);
        load.accepts(50).await;
        stack.nats.kill().await.unwrap();
        is_spooling(&stack, 1).await;
        load.accepts(400).await;
        stack.nats.restart().await.unwrap();
        eventually("the gateway drains its spool", async || {
            (metric(&stack, 0, "gateway_spool_drained_total").await > 0.0).then_some(())
        })
        .await;
        stack.gateways[0].service.kill().await.unwrap();
        let responses = load.end().await;
        assert_eq!(responses.refused.load(Relaxed), 0);
        total.accepted.fetch_add(responses.accepted.load(Relaxed), Relaxed);
        total.cut.fetch_add(responses.cut.load(Relaxed), Relaxed);
        stack.gateways[0].service.restart().await.unwrap();
    }
    assert!(runs_in(spool_dir(&stack, 0)).is_empty());
    assert_stored_between(&stack, &ada, &total).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_while_nats_is_unavailable_leaves_the_spool_to_the_next_start() {
    let (mut stack, ada) = stack(1, &[("SHUTDOWN_DEADLINE", "4")]).await;
    let load = Load::start(&stack, &ada, 8);
    load.accepts(100).await;
    stack.nats.kill().await.unwrap();
    is_spooling(&stack, 1).await;
    load.accepts(200).await;
    let ended = stack.gateways[0].service.stop(Duration::from_secs(20)).await.unwrap();
    let responses = load.end().await;
    assert_eq!(ended.code(), Some(1), "events were left in the spool");
    let process = stack.gateways[0].service.process();
    assert!(process.has_logged("left in the spool"), "{}", process.log_tail());
    let accepted = responses.accepted.load(Relaxed);
    assert_eq!(granted(&stack).await, accepted as i64, "unspent units were returned");

    stack.nats.restart().await.unwrap();
    stack.gateways[0].service.restart().await.unwrap();
    stack.assert_stored(ada.account_id, accepted, accepted as i64).await;
    assert!(runs_in(spool_dir(&stack, 0)).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_while_it_spools_drains_when_nats_comes_back_in_time() {
    let (mut stack, ada) = stack(1, &[]).await;
    let load = Load::start(&stack, &ada, 8);
    load.accepts(100).await;
    stack.nats.kill().await.unwrap();
    is_spooling(&stack, 1).await;
    load.accepts(200).await;
    let responses = load.end().await;
    let mut gateway = stack.gateways.remove(0);
    let (ended, restarted) = tokio::join!(gateway.service.stop(Duration::from_secs(40)), stack.nats.restart());
    restarted.unwrap();
    let ended = ended.unwrap();
    assert!(ended.success(), "{ended}");
    let accepted = responses.accepted.load(Relaxed);
    stack.assert_stored(ada.account_id, accepted, accepted as i64).await;
    assert_eq!(state_of_runs(&stack).await, ["closed"]);
    assert_eq!(granted(&stack).await, accepted as i64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_spool_or_one_in_use_is_refused_and_kept() {
    let (mut stack, ada) = stack(1, &[]).await;
    let other = stack.gateways[0].service.process().program().clone();
    let mut other = other.start().unwrap();
    let ended = other.wait(Duration::from_secs(20)).await.unwrap();
    assert_eq!(ended.code(), Some(1));
    assert!(
        other.has_logged("another process uses the spool"),
        "{}",
        other.log_tail()
    );

    let responses = killed_while_spooling(&mut stack, &ada, 200).await;
    stack.nats.restart().await.unwrap();
    let kept = runs_in(spool_dir(&stack, 0));
    for (change, back, says) in [
        (
            "update gateway_runs set generation = 7",
            "update gateway_runs set generation = 1",
            "generation: 7",
        ),
        (
            "create table aside as select * from gateway_runs; alter table quota_leases drop constraint quota_leases_run_id_fkey; delete from gateway_runs",
            "insert into gateway_runs select * from aside",
            "another cluster",
        ),
    ] {
        sqlx::raw_sql(change).execute(&stack.pool).await.unwrap();
        let mut gateway = stack.gateways[0].service.process().program().clone().start().unwrap();
        let ended = gateway.wait(Duration::from_secs(20)).await.unwrap();
        assert_eq!(ended.code(), Some(1));
        assert!(gateway.has_logged(says), "{}", gateway.log_tail());
        assert_eq!(runs_in(spool_dir(&stack, 0)), kept, "nothing is lost");
        sqlx::raw_sql(back).execute(&stack.pool).await.unwrap();
    }
    stack.gateways[0].service.restart().await.unwrap();
    assert_stored_between(&stack, &ada, &responses).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_spool_of_a_run_that_was_given_up_is_counted_and_kept_aside() {
    let (mut stack, ada) = stack(1, &[]).await;
    killed_while_spooling(&mut stack, &ada, 200).await;
    sqlx::query("update gateway_runs set state = 'fencing'")
        .execute(&stack.pool)
        .await
        .unwrap();
    stack.nats.restart().await.unwrap();
    stack.gateways[0].service.restart().await.unwrap();
    let process = stack.gateways[0].service.process();
    assert!(process.has_logged("the run was given up"), "{}", process.log_tail());
    assert!(metric(&stack, 0, "gateway_spool_lost_total").await > 0.0);
    assert!(runs_in(spool_dir(&stack, 0)).is_empty());
    assert_eq!(runs_in(spool_dir(&stack, 0).join("given-up")).len(), 1);
}
