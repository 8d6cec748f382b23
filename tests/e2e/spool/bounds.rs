//! What the spool does not take is refused: before a unit is spent where that can be known, and with the unit given back
//! where it cannot.

use devstack::process::Process;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};

use super::*;

/// Replaces the first gateway by one that was started otherwise, at the same address.
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

/// What an account has used, as its gateway shows it.
async fn current_usage(client: &Client) -> i64 {
    let shown = client.get("/v1/usage").await.unwrap().json().unwrap();
    let shown = shown["usage"].as_array().unwrap_or_else(|| panic!("{shown}")).clone();
    let calls = shown.iter().find(|usage| usage["usage_type"] == "api_call").unwrap();
    calls["current_usage"].as_i64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_spool_refuses_before_a_unit_is_spent_and_goes_on_when_it_is_drained() {
    let (mut stack, ada) = stack(1, &[("SPOOL_MAX_BYTES", "1048576"), ("LEASE_IDLE", "600")]).await;
    let load = Load::start(&stack, &ada, 16);
    load.accepts(100).await;
    stack.nats.kill().await.unwrap();
    eventually("the spool is full", async || {
        (load.told.refused.load(Relaxed) > 16).then_some(())
    })
    .await;
    assert!(metric(&stack, 0, "gateway_spool_bytes").await <= 1_048_576.0);
    let told = load.end().await;
    let ready = format!("{}/readyz", stack.gateways[0].service.admin_url());
    eventually("it says that it is not ready", async || {
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
    assert_eq!(told.unknown.load(Relaxed) + again.unknown.load(Relaxed), 0);
    let accepted = told.accepted.load(Relaxed) + again.accepted.load(Relaxed);
    stack.assert_stored(ada.account_id, accepted, accepted as i64).await;
    stack.stop().await.unwrap();
    assert_eq!(
        granted(&stack).await,
        accepted as i64,
        "the units of what was refused are back"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_too_long_closes_the_spool() {
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
    eventually("what is in the spool is too old", async || {
        (!takes().await).then_some(())
    })
    .await;
    stack.nats.restart().await.unwrap();
    is_drained(&stack).await;
    eventually("it takes again", async || takes().await.then_some(())).await;
    let accepted = accepted.load(Relaxed);
    stack.assert_stored(ada.account_id, accepted, accepted as i64).await;
    stack.stop().await.unwrap();
    assert_eq!(granted(&stack).await, accepted as i64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_gives_units_back_and_harms_nothing_that_was_accepted() {
    let (mut stack, ada) = stack(1, &[]).await;
    // No file of this process may have more than 64 KiB: the write that passes it fails half way. Its log is full at once.
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
        // The next segment takes something again.
        load.accepts(20).await;
    }
    stack.nats.restart().await.unwrap();
    is_drained(&stack).await;
    load.accepts(100).await;
    let told = load.end().await;
    let [accepted, refused, _, unknown, cut] = told.counts();
    assert!(refused > 0 && unknown == 0 && cut == 0, "{:?}", told.counts());
    stack.assert_stored(ada.account_id, accepted, accepted as i64).await;
    let ended = gateway.stop(Duration::from_secs(40)).await.unwrap();
    assert!(ended.success(), "{ended}");
    assert_eq!(granted(&stack).await, accepted as i64);
}

/// Passes connections on to PostgreSQL, until it is told not to.
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
async fn postgres_away_as_well_refuses_and_spools_when_it_is_back() {
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
        (load.told.refused.load(Relaxed) > 20).then_some(())
    })
    .await;
    let before = load.told.accepted.load(Relaxed);
    let refused = load.told.refused.load(Relaxed);
    eventually("more is refused", async || {
        (load.told.refused.load(Relaxed) > refused + 100).then_some(())
    })
    .await;
    assert_eq!(
        load.told.accepted.load(Relaxed),
        before,
        "nothing is acknowledged from an unregistered spool"
    );

    cable.plug_in(true);
    load.accepts(100).await;
    assert_eq!(state_of_runs(&stack).await, ["closed", "spooling"]);
    stack.nats.restart().await.unwrap();
    is_drained(&stack).await;
    // Away while it is drained: it is live again when PostgreSQL says so, and publishes meanwhile.
    load.accepts(100).await;
    let told = load.end().await;
    let stored = assert_stored_between(&stack, &ada, &told).await;
    let ended = gateway.stop(Duration::from_secs(40)).await.unwrap();
    assert!(ended.success(), "{ended}");
    assert_eq!(granted(&stack).await, stored as i64);
}
