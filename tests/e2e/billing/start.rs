//! How the billing worker starts and ends.

use std::time::Duration;

use devstack::{Service, http::Http};
use harness::eventually;
use serde_json::Value;
use sqlx::PgPool;
use tokio::process::Command;

use super::worker::{SERVICES, Worker, WorkerServers, output, write};

#[tokio::test]
async fn workers_that_start_together_migrate_once_and_all_serve() {
    let servers = WorkerServers::new().await;
    let workers = ["one", "two", "three", "four"].map(|name| Service::start(servers.worker(name).0));
    let workers = futures_util::future::join_all(workers).await;
    assert!(workers.iter().all(Result::is_ok), "{workers:?}");
    let pool = PgPool::connect(&servers.database_url).await.unwrap();
    let plans: Vec<String> = sqlx::query_scalar("select id from plans order by position")
        .fetch_all(&pool)
        .await
        .unwrap();
    assert_eq!(plans, ["free", "pro", "enterprise"]);
}

#[tokio::test]
async fn a_start_that_loses_postgres_starts_over() {
    let mut worker = Worker::start().await;
    worker.service.stop(Duration::from_secs(30)).await.unwrap();
    let (servers, pool) = (&worker.servers, &worker.pool);
    for table in ["_sqlx_migrations", "plans"] {
        let mut held = pool.begin().await.unwrap();
        sqlx::query(sqlx::AssertSqlSafe(format!(
            "lock table {table} in access exclusive mode"
        )))
        .execute(&mut *held)
        .await
        .unwrap();
        let started = Service::start(servers.worker("again").0);
        let dropped = async {
            let first = drop_waiting(pool).await;
            let second = drop_waiting(pool).await;
            assert_ne!(first, second, "it connected again");
            held.commit().await.unwrap();
        };
        let (started, ()) = tokio::join!(started, dropped);
        let mut service = started.unwrap_or_else(|error| panic!("{table}: {error:#}"));
        assert!(service.stop(Duration::from_secs(30)).await.unwrap().success());
    }
}

/// Ends the session that waits for a lock, as a restart of the server would. Returns its process id.
async fn drop_waiting(pool: &PgPool) -> i32 {
    let pid: i32 = eventually("a session waits for a lock", async || {
        let waiting =
            "select pid from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
        sqlx::query_scalar(waiting).fetch_optional(pool).await.unwrap()
    })
    .await;
    sqlx::query("select pg_terminate_backend($1, 60000)")
        .bind(pid)
        .execute(pool)
        .await
        .unwrap();
    pid
}

#[tokio::test]
async fn sigterm_ends_it_well() {
    let mut worker = Worker::start().await;
    let status = worker.service.stop(Duration::from_secs(30)).await.unwrap();
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn admin_api_without_a_token_is_closed_and_says_how_to_open_it() {
    let servers = WorkerServers::new().await;
    let (mut options, _) = servers.worker("closed");
    options.env.retain(|(name, _)| name != "ADMIN_TOKEN");
    let service = Service::start(options).await.unwrap();
    for token in ["", "anything"] {
        let answer = Http::default()
            .get(&format!("{}/admin/accounts", service.admin_url()), token)
            .await
            .unwrap();
        assert_eq!(answer.status.as_u16(), 403);
        let problem: Value = answer.json().unwrap();
        assert!(
            problem["message"].as_str().unwrap().contains("ADMIN_TOKEN"),
            "{problem}"
        );
    }
}

#[tokio::test]
async fn a_plan_in_use_cannot_leave_the_catalogue() {
    let worker = Worker::start().await;
    for email in ["ann@example.com", "bob@example.com"] {
        worker.account(email, "enterprise").await;
    }
    let catalogue = include_str!("../../../schema/plans.toml");
    let (without, _) = catalogue.split_once("[[plan]]\nid = \"enterprise\"").unwrap();
    let file = write(worker.servers.data.path(), "plans.toml", without);
    let output = worker.servers.command(&["catalogue", "sync", "--plans", &file]).await;
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains("`enterprise`") && stderr.contains("2 accounts"),
        "{stderr}"
    );
    let plans: i64 = sqlx::query_scalar("select count(*) from plans")
        .fetch_one(&worker.pool)
        .await
        .unwrap();
    assert_eq!(plans, 3, "nothing was changed");
}

#[tokio::test]
async fn wrong_settings_prevent_the_start_and_are_named() {
    let servers = WorkerServers::new().await;
    let typo = include_str!("../../../schema/plans.toml").replacen("usage.export", "usage.exprot", 1);
    let line = typo.lines().position(|line| line.contains("exprot")).unwrap() + 1;
    let file = write(servers.data.path(), "typo.toml", &typo);
    let missing = servers.database_url.replace("billing_", "missing_");
    for (name, value, code, named) in [
        ("PLANS_FILE", file.as_str(), 2, format!("typo.toml:{line}: ")),
        (
            "DATABASE_URL",
            "mysql://root:hunter2@localhost/x",
            2,
            "DATABASE_URL".to_owned(),
        ),
        ("NATS_URL", "nats://u:hunter2@localhost:port", 2, "NATS_URL".to_owned()),
        ("ADMIN_TOKEN", "", 2, "ADMIN_TOKEN".to_owned()),
        ("LOG_FILTER", "in=fo=", 2, "log-filter".to_owned()),
        ("DATABASE_URL", missing.as_str(), 1, "PostgreSQL".to_owned()),
    ] {
        let (options, _) = servers.worker("wrong");
        let mut command = Command::new(SERVICES);
        command.args(["service", "billing-worker"]);
        command.envs(options.env).env(name, value);
        let output = output(command).await;
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{name}: {stderr}");
        assert!(
            stderr.contains(&named) && !stderr.contains("hunter2"),
            "{name}: {stderr}"
        );
    }
}
