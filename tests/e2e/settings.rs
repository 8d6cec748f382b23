//! Invalid settings: each service exits at once with code 2 and names the flag and the environment variable.

use std::process::{Command, Output};

use crate::SERVICES;

/// Settings that every service has, each with an invalid value.
const COMMON: &[(&str, &str, &str)] = &[
    ("--admin-addr", "ADMIN_ADDR", "9090"),
    ("--log-format", "LOG_FORMAT", "xml"),
    ("--log-filter", "LOG_FILTER", "in=fo="),
    ("--log-filter", "LOG_FILTER", "loud"),
    ("--log-filter", "LOG_FILTER", "info,gateway=loud"),
    ("--shutdown-deadline", "SHUTDOWN_DEADLINE", "0"),
    ("--problem-type-base", "PROBLEM_TYPE_BASE", "the docs"),
    ("--nats-url", "NATS_URL", "nats://u:hunter2@"),
    ("--nats-url", "NATS_URL", "http//u:hunter2@h"),
];

const GATEWAY: &[(&str, &str, &str)] = &[
    ("--database-url", "DATABASE_URL", "mysql://u:hunter2@h/d"),
    ("--database-connections", "DATABASE_CONNECTIONS", "0"),
    ("--listen", "GATEWAY_LISTEN", "here"),
    ("--listen", "GATEWAY_LISTEN", "127.0.0.1:9090"),
    ("--plans", "PLANS_FILE", "/nowhere/plans.toml"),
    ("--trial-overage", "TRIAL_OVERAGE", "perhaps"),
    ("--routes", "ROUTES_FILE", "/nowhere/routes.toml"),
    ("--trusted-proxies", "TRUSTED_PROXIES", "10.0.0.0/99"),
    ("--body-max", "BODY_MAX", "-1"),
    ("--upstream-url", "UPSTREAM_URL", "ftp://host"),
    ("--upstream-url", "UPSTREAM_URL", "http://u:hunter2@host"),
    ("--upstream-connect-timeout", "UPSTREAM_CONNECT_TIMEOUT", "soon"),
    ("--connections-max", "CONNECTIONS_MAX", "0"),
    ("--head-bytes-max", "HEAD_BYTES_MAX", "100"),
    ("--body-rate-min", "BODY_RATE_MIN", "0"),
    ("--batch-events", "BATCH_EVENTS", "0"),
    ("--batch-bytes", "BATCH_BYTES", "1000"),
    ("--lane-queue", "LANE_QUEUE", "many"),
    ("--lane-stuck-after", "LANE_STUCK_AFTER", "10"),
    ("--heartbeat-interval", "HEARTBEAT_INTERVAL", "30"),
    ("--spool-dir", "SPOOL_DIR", "/proc/nowhere"),
    ("--spool-max-bytes", "SPOOL_MAX_BYTES", "1000"),
    ("--keys-max", "KEYS_MAX", "0"),
    ("--routes", "ROUTES_FILE", ""),
    ("--spool-dir", "SPOOL_DIR", ""),
    ("--upgrade-url", "UPGRADE_URL", ""),
    ("--gateway-name", "GATEWAY_NAME", ""),
    ("--publish-timeout", "PUBLISH_TIMEOUT", "11"),
    ("--refresh-interval", "REFRESH_INTERVAL", "61"),
    ("--recall-wait", "RECALL_WAIT", "2"),
];

const INGESTOR: &[(&str, &str, &str)] = &[
    ("--clickhouse-url", "CLICKHOUSE_URL", "u:hunter2@h:8123"),
    ("--clickhouse-database", "CLICKHOUSE_DATABASE", ""),
    ("--audit-interval", "AUDIT_INTERVAL", "1e30"),
    ("--shards", "SHARDS", "0"),
    ("--stream-max-bytes", "STREAM_MAX_BYTES", "1"),
    ("--stream-replicas", "STREAM_REPLICAS", "2"),
    ("--batch-rows-max", "BATCH_ROWS_MAX", "100001"),
    ("--batch-age-max", "BATCH_AGE_MAX", "0"),
    ("--member-ttl", "MEMBER_TTL", "0.2"),
    ("--migrate", "MIGRATE", "perhaps"),
    ("--inserts-at-once", "INSERTS_AT_ONCE", "0"),
];

const BILLING_WORKER: &[(&str, &str, &str)] = &[
    ("--database-url", "DATABASE_URL", "h/d"),
    ("--clickhouse-url", "CLICKHOUSE_URL", "clickhouse://u:hunter2@h"),
    ("--clickhouse-database", "CLICKHOUSE_DATABASE", ""),
    ("--admin-token", "ADMIN_TOKEN", "hunter2 hunter2"),
    ("--plans", "PLANS_FILE", "/nowhere/plans.toml"),
    ("--trial-overage", "TRIAL_OVERAGE", ""),
    ("--stripe-secret-key", "STRIPE_SECRET_KEY", "pk_live_hunter2"),
    ("--stripe-api-base", "STRIPE_API_BASE", "hunter2"),
    ("--stripe-calls-per-second", "STRIPE_CALLS_PER_SECOND", "0"),
    ("--stripe-reads-per-second", "STRIPE_READS_PER_SECOND", "0"),
    ("--stripe-writes-per-second", "STRIPE_WRITES_PER_SECOND", "1001"),
    ("--stripe-webhook-secrets", "STRIPE_WEBHOOK_SECRETS", "whsec_hunter2,"),
    ("--stripe-webhook-secrets", "STRIPE_WEBHOOK_SECRETS", "hunter2"),
    ("--billing-public-url", "BILLING_PUBLIC_URL", "billing"),
    ("--notice-thresholds", "NOTICE_THRESHOLDS", "most"),
    ("--late-usage", "LATE_USAGE", "never"),
    ("--run-dead-after", "RUN_DEAD_AFTER", "-1"),
];

/// Only the service itself needs these.
const BILLING_SERVICE: &[(&str, &str, &str)] = &[
    ("--database-connections", "DATABASE_CONNECTIONS", "5"),
    ("--listen", "BILLING_LISTEN", "127.0.0.1:9090"),
    ("--run-dead-after", "RUN_DEAD_AFTER", "1"),
];

fn start(service: &[&str], env: &[(&str, &str)], args: &[&str]) -> Output {
    let mut command = Command::new(SERVICES);
    // Do not inherit settings from the environment of the tests.
    command.env_clear().arg("service").args(service).args(args);
    command.envs(env.iter().copied()).output().unwrap()
}

#[track_caller]
fn assert_refused(output: &Output, named: &[&str]) {
    let shown = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{named:?}: {shown}");
    for name in named {
        assert!(shown.contains(name), "{named:?}: {shown}");
    }
    assert!(!shown.contains("hunter2"), "a secret is shown: {shown}");
}

#[test]
fn a_wrong_setting_ends_every_service_with_exit_code_2_and_its_name() {
    for (service, settings) in [
        (&["gateway"][..], &[COMMON, GATEWAY][..]),
        (&["ingestor"], &[COMMON, INGESTOR]),
        (&["ingestor", "audit"], &[COMMON, INGESTOR]),
        (&["billing-worker"], &[COMMON, BILLING_WORKER, BILLING_SERVICE]),
        (&["billing-worker", "reconcile"], &[COMMON, BILLING_WORKER]),
    ] {
        for (flag, variable, value) in settings.iter().copied().flatten() {
            let named = [*flag, *variable];
            assert_refused(&start(service, &[(variable, value)], &[]), &named);
            assert_refused(&start(service, &[], &[&format!("{flag}={value}")]), &named);
        }
    }
}

#[test]
fn all_mistakes_are_shown_at_once() {
    for service in ["gateway", "ingestor", "billing-worker"] {
        let env = [("ADMIN_ADDR", "9090"), ("LOG_FILTER", "loud"), ("NATS_URL", "nats://")];
        let output = start(&[service], &env, &["--shutdown-deadline", "never"]);
        assert_refused(&output, &["ADMIN_ADDR", "LOG_FILTER", "NATS_URL", "SHUTDOWN_DEADLINE"]);
    }
    let env = [
        ("BILLING_LISTEN", "127.0.0.1:9090"),
        ("PLANS_FILE", "/nowhere"),
        ("ADMIN_TOKEN", ""),
    ];
    let output = start(&["billing-worker"], &env, &[]);
    assert_refused(&output, &["BILLING_LISTEN", "PLANS_FILE", "ADMIN_TOKEN"]);
}

#[test]
fn a_wrong_file_is_named_with_its_line() {
    let file = std::env::temp_dir().join(format!("wrong-{:016x}.toml", rand::random::<u64>()));
    std::fs::write(&file, "usage_types = [\"a\"]\n\n[[plan]]\nid = \"free\"\nprize = 1\n").unwrap();
    let shown = file.to_str().unwrap();
    for service in ["gateway", "billing-worker"] {
        let output = start(&[service], &[("PLANS_FILE", shown)], &[]);
        assert_refused(&output, &["PLANS_FILE", &format!("{shown}:5: ")]);
        let output = start(&[service], &[], &["--plans", shown]);
        assert_refused(&output, &["--plans", &format!("{shown}:5: ")]);
    }
    let output = start(&["gateway"], &[("ROUTES_FILE", shown)], &[]);
    assert_refused(&output, &["ROUTES_FILE", &format!("{shown}: line 3")]);
    std::fs::remove_file(file).unwrap();
}

#[test]
fn sub_commands_take_the_connections_of_their_service() {
    let nowhere = "127.0.0.1:1";
    for (service, flags) in [
        (
            &["ingestor", "migrate"][..],
            &["--nats-url", "nats://", "--clickhouse-url", "http://"][..],
        ),
        (
            &["billing-worker", "reconcile"],
            &[
                "--nats-url",
                "nats://",
                "--clickhouse-url",
                "http://",
                "--stripe-api-base",
                "http://",
            ],
        ),
        (
            &["billing-worker", "accounts", "list"],
            &["--database-url", "postgres://", "--clickhouse-url", "http://"],
        ),
    ] {
        let flags: Vec<String> = flags
            .chunks(2)
            .flat_map(|pair| [pair[0].to_owned(), format!("{}{nowhere}", pair[1])])
            .collect();
        let mut args: Vec<&str> = flags.iter().map(String::as_str).collect();
        // Only this setting is wrong. All others are accepted.
        args.extend(["--log-filter", "loud"]);
        let output = start(service, &[], &args);
        assert_refused(&output, &["LOG_FILTER"]);
        assert_eq!(String::from_utf8_lossy(&output.stderr).lines().count(), 1);
    }
}

#[test]
fn a_command_without_its_servers_ends_and_says_which_and_why() {
    let away = [
        ("NATS_URL", "nats://u:hunter2@127.0.0.1:1"),
        ("CLICKHOUSE_URL", "http://u:hunter2@127.0.0.1:1"),
        ("DATABASE_URL", "postgres://u:hunter2@127.0.0.1:1/d"),
    ];
    let commands: [(&[&str], &[&str]); 4] = [
        (&["ingestor", "migrate"], &["NATS_URL", "CLICKHOUSE_URL"]),
        (&["ingestor", "audit"], &["NATS_URL", "CLICKHOUSE_URL"]),
        (&["ingestor", "raise-generation"], &["NATS_URL", "CLICKHOUSE_URL"]),
        (&["billing-worker", "accounts", "list"], &["DATABASE_URL"]),
    ];
    // Each waits ten seconds.
    std::thread::scope(|scope| {
        for (command, settings) in commands {
            scope.spawn(move || {
                let output = start(command, &away, &[]);
                let shown = String::from_utf8_lossy(&output.stderr);
                assert_eq!(output.status.code(), Some(1), "{command:?}: {shown}");
                assert!(shown.contains("could not connect to"), "{command:?}: {shown}");
                assert!(!shown.contains("hunter2"), "a secret is shown: {shown}");
                for setting in settings {
                    let why = |line: &str| line.contains(setting) && line.contains("Connection refused");
                    assert!(shown.lines().any(why), "{setting} {command:?}: {shown}");
                }
            });
        }
    });
}
