//! An existing stream keeps its settings, whatever those of an ingestor or of a shell are. One command changes it.

use async_nats::jetstream::stream::Config;
use devstack::{DataDir, Nats, NatsOptions, ports};
use harness::eventually;
use schema::names;

use super::rig::Rig;

const OTHER: [(&str, &str); 5] = [
    ("STREAM_MAX_BYTES", "1048576"),
    ("SHARDS", "2"),
    ("MEMBER_TTL", "30"),
    ("STREAM_REPLICAS", "3"),
    ("ADMIN_ADDR", "127.0.0.1:0"),
];

async fn configs(rig: &Rig) -> Vec<Config> {
    let mut configs = Vec::new();
    for name in [
        names::USAGE_STREAM,
        names::DEAD_STREAM,
        "KV_ingest",
        "KV_ingest_members",
    ] {
        let stream = rig.jetstream.get_stream(name).await.unwrap();
        configs.push(stream.cached_info().config.clone());
    }
    configs
}

#[tokio::test(flavor = "multi_thread")]
async fn other_settings_of_commands_and_ingestors_change_nothing() {
    let mut rig = Rig::start(1, &[]).await;
    let mut lane = rig.lane(3).await;
    lane.batch(&[1, 10]).await;
    rig.assert_stored(lane.written).await;
    let before = configs(&rig).await;
    assert_eq!(before[0].max_bytes, 4 << 30);
    for command in ["audit", "migrate"] {
        let output = rig.command_with(command, &OTHER).await;
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command}: {log}");
        assert!(
            log.contains("max bytes") && log.contains("stream set"),
            "{command}: {log}"
        );
        assert_eq!(configs(&rig).await, before, "{command}");
    }
    rig.add_ingestor_with(&OTHER[..4]).await;
    assert_eq!(configs(&rig).await, before);
    assert!(rig.ingestors[1].process().has_logged("differs from the settings"));
    lane.batch(&[100]).await;
    rig.assert_stored(lane.written).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_does_not_create_a_stream() {
    let rig = Rig::start(0, &[]).await;
    for command in ["audit", "raise-generation", "stream set --replicas 1"] {
        let output = rig.command(command).await;
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && log.contains("ingestor"), "{command}: {log}");
        assert!(
            rig.jetstream.get_stream(names::USAGE_STREAM).await.is_err(),
            "{command}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_set_shows_the_difference_and_changes_only_what_it_names() {
    let rig = Rig::start(1, &[]).await;
    let mut lane = rig.lane(0).await;
    lane.batch(&[1, 10]).await;
    rig.assert_stored(lane.written).await;
    let before = configs(&rig).await;
    let run = async |command: &str| {
        let output = rig.command_with(command, &OTHER).await;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    };
    let (done, shown, log) = run("stream set --max-bytes 8589934592 --member-expiry 2 --dry-run").await;
    assert!(
        done && shown.contains("4294967296") && shown.contains("8589934592"),
        "{shown}{log}"
    );
    assert_eq!(configs(&rig).await, before, "a dry run changes nothing");
    let (done, shown, log) = run("stream set --max-bytes 8589934592 --member-expiry 2").await;
    assert!(
        done && shown.contains("changed KV_ingest_members, USAGE"),
        "{shown}{log}"
    );
    let after = configs(&rig).await;
    assert_eq!((after[0].max_bytes, after[3].max_age.as_secs()), (8 << 30, 2));
    assert_eq!(
        (after[0].num_replicas, &after[1], &after[2]),
        (1, &before[1], &before[2])
    );
    assert_eq!(after[0].metadata, before[0].metadata);
    let (done, shown, _) = run("stream set --max-bytes 8589934592").await;
    assert!(done && shown.contains("nothing to change"), "{shown}");

    // A stream below its content would refuse all events.
    let mut big = rig.lane(1).await;
    for _ in 0..12 {
        big.batch(&[1; 1_500]).await;
    }
    let (done, _, log) = run("stream set --max-bytes 1048576").await;
    assert!(!done && log.contains("nothing was changed"), "{log}");
    assert_eq!(configs(&rig).await, after);

    // Somebody else made the stream lose events.
    let config = Config {
        discard: async_nats::jetstream::stream::DiscardPolicy::Old,
        ..after[0].clone()
    };
    rig.jetstream.update_stream(config).await.unwrap();
    let audit = rig.command("audit").await;
    assert!(String::from_utf8_lossy(&audit.stderr).contains("can lose events"));
    let (done, shown, log) = run("stream set").await;
    assert!(done && shown.contains("drop old messages"), "{shown}{log}");
    assert_eq!(configs(&rig).await, after);
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_of_a_cluster_stay_until_they_are_set() {
    let data = DataDir::create().unwrap();
    let routes: Vec<u16> = (0..3).map(|_| ports::free().unwrap()).collect();
    let all: Vec<String> = routes.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
    let mut servers = Vec::new();
    for (n, port) in routes.iter().enumerate() {
        let options = NatsOptions {
            extra_config: format!(
                "server_name: n{n}\ncluster {{ name: c, listen: \"127.0.0.1:{port}\", routes: [{}] }}",
                all.iter()
                    .map(|route| format!("\"{route}\""))
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
            ..NatsOptions::default()
        };
        servers.push(Nats::start(&data.path().join(format!("n{n}")), &options).await.unwrap());
    }
    let mut rig = Rig::with_nats(servers.remove(0), &[("STREAM_REPLICAS", "3")]).await;
    eventually("the ingestor has started", async || rig.try_add_ingestor().await.ok()).await;
    let mut lane = rig.lane(0).await;
    lane.batch(&[1, 10]).await;
    rig.assert_stored(lane.written).await;
    let replicas = async || -> Vec<usize> { configs(&rig).await.iter().map(|config| config.num_replicas).collect() };
    assert_eq!(replicas().await, [3; 4]);
    // In a shell without STREAM_REPLICAS.
    let audit = rig.command_with("audit", &[("STREAM_REPLICAS", "1")]).await;
    assert!(audit.status.success());
    assert_eq!(replicas().await, [3; 4]);
    for wanted in [1, 3] {
        let set = rig.command(&format!("stream set --replicas {wanted}")).await;
        assert!(set.status.success(), "{}", String::from_utf8_lossy(&set.stderr));
        assert_eq!(replicas().await, [wanted; 4]);
    }
    lane.batch(&[100]).await;
    rig.assert_stored(lane.written).await;
}
