//! Requests that the spool cannot take are refused: before a unit is spent if this is known in advance, otherwise the unit is
//! returned.

use devstack::process::Process;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};

use super::*;

/// Replaces the first gateway by one with a changed start command, at the same address.
async fn replaced(stack: &mut Stack, change: impl FnOnce(&mut devstack::process::Program)) -> Process {
    let mut program = stack.gateways[0].service.process().program().clone();
    let ended = stack.gateways[0].service.stop(Duration::from_secs(40)).await.unwrap();
    assert!(ended.success(), "{ended}");
    change(&mut program);
    let mut process = program.start().unwrap();
    let ready = format!("{}/readyz", stack.gateways[0].service.admin_url());
    let is_ready = async |_: &mut Process| {
        let answer = devstack::http::Http::default().get(&ready, "").await;
        answer.is_ok_and(|answer| answer.status == 200)
    };
    process.wait_until(Duration::from_secs(30), is_ready).await.unwrap();
    process
}

/// The usage of the account, as the gateway shows it.
async fn current_usage(client: &Client) -> i64 {
    let shown = client.get("/v1/usage").await.unwrap().json().unwrap();
    let shown = shown["usage"].as_array().unwrap_or_else(|| panic!("{shown}")).clone();
    let calls = shown.iter().find(|usage| usage["usage_type"] == "api_call").unwrap();
    calls["current_usage"].as_i64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_spool_refuses_before_a_unit_is_spent_and_accepts_again_once_drained() {
    let (mut stack, ada) = stack(1, &[("SPOOL_MAX_BYTES", "1048576"), ("LEASE_IDLE", "600")]).await;
    let load = Load::start(&stack, &ada, 16);
    load.accepts(100).await;
    stack.nats.kill().await.unwrap();
    eventually("the spool is full", async || {
        (load.responses.refused.load(Relaxed) > 16).then_some(())
    })
    .await;
    assert!(metric(&stack, 0, "gateway_spool_bytes").await <= 1_048_576.0);
    let responses = load.end().await;
    let ready = format!("{}/readyz", stack.gateways[0].service.admin_url());
    eventually("the gateway is not ready", async || {
        let ready = devstack::http::Http::default().get(&ready, "").await.unwrap();
        (ready.status == 503).then_some(())
    })
    .await;

    let client = Client::new(stack.gateway(0), &ada);
    let used = current_usage(&client).await;
    let held = granted(&stack).await;
    for _ in 0..50 {
        let answer = client.spend("api_call", 1).await.unwrap();
        assert_eq!(answer.status, 503);
        assert!(answer.header("retry-after").is_some());
    }
    assert_eq!((current_usage(&client).await, granted(&stack).await), (used, held));

    stack.nats.restart().await.unwrap();
    is_drained(&stack).await;
    let again = Load::start(&stack, &ada, 8);
    again.accepts(100).await;
    let again = again.end().await;
    assert_eq!(responses.unknown.load(Relaxed) + again.unknown.load(Relaxed), 0);
    let accepted = responses.accepted.load(Relaxed) + again.accepted.load(Relaxed);
    stack.assert_stored(ada.account_id, accepted, accepted as i64).await;
    stack.stop().await.unwrap();
    assert_eq!(
        granted(&stack).await,
        accepted as i64,
        "the units of refused requests are returned"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spool_with_too_old_events_refuses_new_ones() {
    let (mut stack, ada) = stack(1, &[("SPOOL_MAX_AGE", "3")]).await;
    let client = Client::new(stack.gateway(0), &ada);
    stack.nats.kill().await.unwrap();
    assert_eq!(client.spend("api_call", 1).await.unwrap().status, 200);
    let accepted = AtomicU64::new(1);
    let takes = async || {
        let status = client.spend("api_call", 1).await.unwrap().status;
        assert!(status == 200 || status == 503, "{status}");
        accepted.fetch_add(u64::from(status == 200), Relaxed);
        status == 200
    };
    eventually("the events in the spool are too old", async || {
        (!takes().await).then_some(())
    })
    .await;
    stack.nats.restart().await.unwrap();
    is_drained(&stack).await;
    eventually("the spool accepts again", async || takes().await.then_some(())).await;
    let accepted = accepted.load(Relaxed);
    stack.assert_stored(ada.account_id, accepted, accepted as i64).await;
    stack.stop().await.unwrap();
    assert_eq!(granted(&stack).await, accepted as i64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_requests_returns_their_units_and_loses_no_accepted_event() {
    let (mut stack, ada) = stack(1, &[]).await;
    // No file of this process may exceed 64 KiB: the write that exceeds it fails half way. Its log file is full immediately.
    let mut gateway = replaced(&mut stack, |program| {
        let script = "ulimit -f 128; exec \"$@\"";
        let exe = std::mem::replace(&mut program.exe, "/bin/sh".into());
        program
            .args
            .splice(0..0, ["-c".into(), script.into(), "sh".into(), exe.into()]);
        program.env.push(("LOG_FILTER".into(), "trace".into()));
    })
    .await;
    let load = Load::start(&stack, &ada, 16);
    load.accepts(100).await;
    stack.nats.kill().await.unwrap();
    for failures in [0.0, 1.0] {
        eventually("a write fails", async || {
            (metric(&stack, 0, "gateway_spool_failed_total").await > failures).then_some(())
        })
        .await;
        // The next segment has room again.
        load.accepts(20).await;
    }
    stack.nats.restart().await.unwrap();
    is_drained(&stack).await;
    load.accepts(100).await;
    let responses = load.end().await;
    let [accepted, refused, _, unknown, cut] = responses.counts();
    assert!(refused > 0 && unknown == 0 && cut == 0, "{:?}", responses.counts());
    stack.assert_stored(ada.account_id, accepted, accepted as i64).await;
    let ended = gateway.stop(Duration::from_secs(40)).await.unwrap();
    assert!(ended.success(), "{ended}");
    assert_eq!(granted(&stack).await, accepted as i64);
}

/// Forwards connections to PostgreSQL while it is plugged in.
struct Cable {
    port: u16,
    is_plugged_in: watch::Sender<bool>,
    _task: JoinSet<()>,
}

impl Cable {
    async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own_port = listener.local_addr().unwrap().port();
        let (is_plugged_in, seen) = watch::channel(true);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                let (mut before, mut seen) = (seen.clone(), seen.clone());
                connections.spawn(async move {
                    let passing = async {
                        before.wait_for(|plugged_in| *plugged_in).await.ok();
                        let mut far = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                        tokio::io::copy_bidirectional(&mut near, &mut far).await.ok();
                    };
                    tokio::select! {
                        () = passing => {}
                        _ = seen.wait_for(|plugged_in| !*plugged_in) => {}
                    }
                });
            }
        });
        Self {
            port: own_port,
            is_plugged_in,
            _task: task,
        }
    }

    fn plug_in(&self, is_plugged_in: bool) {
        self.is_plugged_in.send_replace(is_plugged_in);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_postgres_requests_are_refused_until_it_is_back() {
    let (mut stack, ada) = stack(1, &[]).await;
    let database_url = stack.endpoints.database_url.clone();
    let (before, port) = database_url.rsplit_once(':').unwrap();
    let (port, name) = port.split_once('/').unwrap();
    let cable = Cable::to(port.parse().unwrap()).await;
    let url = format!("{before}:{}/{name}", cable.port);
    let mut gateway = replaced(&mut stack, |program| {
        program.env.push(("DATABASE_URL".into(), url.into()))
    })
    .await;
    let load = Load::start(&stack, &ada, 8);
    load.accepts(100).await;

    cable.plug_in(false);
    stack.nats.kill().await.unwrap();
    eventually("requests are refused", async || {
        (load.responses.refused.load(Relaxed) > 20).then_some(())
    })
    .await;
    let before = load.responses.accepted.load(Relaxed);
    let refused = load.responses.refused.load(Relaxed);
    eventually("more requests are refused", async || {
        (load.responses.refused.load(Relaxed) > refused + 100).then_some(())
    })
    .await;
    assert_eq!(
        load.responses.accepted.load(Relaxed),
        before,
        "nothing is acknowledged from an unregistered spool"
    );

    cable.plug_in(true);
    load.accepts(100).await;
    assert_eq!(state_of_runs(&stack).await, ["closed", "spooling"]);
    stack.nats.restart().await.unwrap();
    is_drained(&stack).await;
    // The run is live again once PostgreSQL has recorded it. The gateway keeps publishing during this time.
    load.accepts(100).await;
    let responses = load.end().await;
    let stored = assert_stored_between(&stack, &ada, &responses).await;
    let ended = gateway.stop(Duration::from_secs(40)).await.unwrap();
    assert!(ended.success(), "{ended}");
    assert_eq!(granted(&stack).await, stored as i64);
}
