//! `billing-worker stripe rehearse` against the fake Stripe, as its own process.

use std::sync::Arc;

use devstack::{
    Servers, StripeDouble, StripeDoubleOptions,
    http::{Http, request},
    stripe_double::{FaultKind, FaultRule, RefusalKind},
};
use harness::{PATIENCE, eventually};
use http::Method;
use serde_json::Value;
use service::postgres::pool_options;
use sqlx::PgPool;
use tokio::process::Command;

use crate::{SERVICES, billing::worker::output};

/// An empty database, in whose name the rehearsal makes its own.
struct Rig {
    stripe: StripeDouble,
    database_url: String,
    /// The name of the database.
    name: String,
    pool: PgPool,
    servers: Arc<Servers>,
}

impl Rig {
    async fn start() -> Self {
        let servers = Servers::shared().await.unwrap();
        let name = format!("rh_{:016x}", rand::random::<u64>());
        let database_url = servers.postgres.create_database(&name).await.unwrap();
        let stripe = StripeDouble::start(StripeDoubleOptions::default()).await.unwrap();
        stripe.control().set_strict(true);
        Self {
            stripe,
            pool: pool_options().connect(&database_url).await.unwrap(),
            database_url,
            name,
            servers,
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(SERVICES);
        command
            .args(["service", "billing-worker", "stripe", "rehearse", "--json"])
            .args(args)
            .env("DATABASE_URL", &self.database_url)
            .env("CLICKHOUSE_URL", self.servers.clickhouse.url())
            .env("STRIPE_SECRET_KEY", self.stripe.api_key())
            .env("STRIPE_API_BASE", self.stripe.url())
            .env("STRIPE_CALLS_PER_SECOND", "1000");
        command
    }

    /// The exit code, what it printed as JSON, and its log.
    async fn rehearse(&self, args: &[&str]) -> (i32, Value, String) {
        let output = output(self.command(args)).await;
        let shown = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code().unwrap(), shown, log)
    }

    /// The databases of rehearsals in both servers, and the names of test clocks.
    async fn left(&self) -> Vec<String> {
        let prefix = format!("{}_rehearsal_", self.name);
        let postgres = sqlx::query_scalar("select datname::text from pg_database where starts_with(datname::text, $1)");
        let mut left: Vec<String> = postgres.bind(&prefix).fetch_all(&self.pool).await.unwrap();
        let clickhouse = self.servers.clickhouse.client().with_database("default");
        let databases = clickhouse.query("select name from system.databases where startsWith(name, ?)");
        left.extend(databases.bind(&prefix).fetch_all::<String>().await.unwrap());
        let clocks = self.call(Method::GET, "/v1/test_helpers/test_clocks").await;
        let clocks = clocks["data"].as_array().unwrap().iter();
        left.extend(clocks.map(|clock| clock["name"].as_str().unwrap().to_owned()));
        left
    }

    async fn call(&self, method: Method, path: &str) -> Value {
        let url = format!("{}{path}", self.stripe.url());
        let call = request(method, &url, self.stripe.api_key(), None).unwrap();
        Http::default().send(call).await.unwrap().ok().unwrap()
    }
}

fn rows(shown: &Value) -> Vec<String> {
    let text = |row: &Value, field: &str| row[field].as_str().unwrap().to_owned();
    let rows = shown["report"]["rows"].as_array().unwrap().iter();
    rows.map(|row| {
        ["step", "what", "ours", "stripe", "state"]
            .map(|field| text(row, field))
            .join(" | ")
    })
    .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn rehearse_walks_the_whole_life_and_every_line_agrees() {
    let rig = Rig::start().await;
    // No faster than by default: more calls wait for their turn.
    let (code, shown, log) = rig.rehearse(&["--stripe-calls-per-second", "25"]).await;
    assert_eq!(code, 0, "{shown:#}\n{log}");
    let rows = rows(&shown);
    for expected in [
        "subscribe | rehearse_small | 29.00 | 29.00 | ok",
        "declined upgrade | answer | declined | declined | ok",
        // 37 units at 1.5 cents: half a cent is rounded up. 41 units at 1.25 cents.
        "end of the period | rehearse_call on rehearse_small | 0.56 | 0.56 | ok",
        "end of the period | rehearse_call on rehearse_large | 0.51 | 0.51 | ok",
        "end of the period | rehearse_large | 299.00 | 299.00 | ok",
        "correction | credit notes | 0.25 | 0.25 | ok",
        "smaller plan | paid by the credit | 0.25 | 0.25 | ok",
        "failed payment | status | past_due | past_due | ok",
        "paid after all | status | active | active | ok",
        "cancel now | rehearse_call on rehearse_small | 0.56 | 0.56 | ok",
        "cancel now | status | canceled | canceled | ok",
        "reconcile | lines whose units differ | 0 | 0 | ok",
    ] {
        assert!(rows.iter().any(|row| row == expected), "{expected}: {rows:#?}");
    }
    assert!(
        rows.iter()
            .any(|row| row.starts_with("upgrade | unused time on rehearse_small | -")),
        "{rows:#?}"
    );
    assert_eq!(shown["report"]["questions"].as_array().unwrap().len(), 12, "{shown:#}");
    assert_eq!(rig.left().await, [""; 0]);
    assert_eq!(rig.stripe.control().violations(), [""; 0]);
    // A service on the same sandbox knows that nobody has to link the customer.
    let requests = rig.stripe.control().requests();
    let customer = requests
        .iter()
        .find(|request| request.path == "/v1/customers" && request.method == "POST");
    assert!(
        customer.unwrap().params["metadata"]["trendit"] == "ignore",
        "{customer:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_amount_in_stripe_is_a_difference_and_the_exit_code_says_so() {
    let rig = Rig::start().await;
    rig.stripe.control().set_usage_wrong_by_cents(1);
    let (code, shown, log) = rig.rehearse(&[]).await;
    assert_eq!(code, 1, "{shown:#}");
    assert!(log.contains("differ"), "{log}");
    let expected = "cancel now | rehearse_call on rehearse_small | 0.56 | 0.57 | different";
    let rows = rows(&shown);
    assert!(rows.iter().any(|row| row == expected), "{rows:#?}");
    let differences = rows.iter().filter(|row| row.ends_with("| different")).count();
    assert_eq!(shown["differences"], differences);
    assert_eq!(rig.left().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_key_is_refused() {
    let rig = Rig::start().await;
    for key in ["sk_live_123", "rk_live_123"] {
        let (code, _, log) = rig.rehearse(&["--stripe-secret-key", key]).await;
        assert_eq!(code, 2, "{log}");
        assert!(
            log.contains("must be the key of a sandbox") && !log.contains(key),
            "{log}"
        );
    }
    let mut without_key = rig.command(&[]);
    without_key.env_remove("STRIPE_SECRET_KEY");
    assert_eq!(output(without_key).await.status.code(), Some(2));
    assert!(rig.stripe.control().requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_behind() {
    let rig = Rig::start().await;
    // An earlier rehearsal crashed.
    let old = format!("{}_rehearsal_1600000000000", rig.name);
    rig.servers.postgres.create_database(&old).await.unwrap();
    rig.servers.clickhouse.create_database(&old).await.unwrap();
    // An error in the middle.
    let refused = FaultRule::new(FaultKind::Refused(RefusalKind::PermissionMissing));
    rig.stripe
        .control()
        .add_fault(refused.method("POST").path("/v1/subscription_schedules"));
    let (code, shown, log) = rig.rehearse(&[]).await;
    assert_eq!(code, 1, "{shown:#}");
    assert!(log.contains("a smaller plan with the next period"), "{log}");
    assert!(!rows(&shown).is_empty(), "what was compared until then is shown");
    assert_eq!(rig.left().await, [""; 0]);
    // A signal.
    rig.stripe.control().clear_faults();
    rig.stripe.control().add_fault(
        FaultRule::new(FaultKind::Hang { ms: 60_000 })
            .method("POST")
            .path("/v1/credit_notes"),
    );
    let mut child = rig
        .command(&[])
        .stdout(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    eventually("the rehearsal is in the middle", async || {
        (rig.stripe.control().faults_struck() > 0).then_some(())
    })
    .await;
    assert_eq!(rig.left().await.len(), 3);
    let pid = child.id().unwrap().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &pid])
            .status()
            .await
            .unwrap()
            .success()
    );
    let ended = tokio::time::timeout(PATIENCE, child.wait()).await.unwrap().unwrap();
    assert_eq!(ended.code(), Some(1));
    assert_eq!(rig.left().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plans_of_the_operator_are_rehearsed_under_other_names() {
    let rig = Rig::start().await;
    let directory = devstack::DataDir::create().unwrap();
    let text = include_str!("../../../schema/plans.toml")
        .replace(
            "usage.export = { limit = 100 }",
            "usage.export = { limit = 100, mode = \"overage\", unit_price_micros = 50_000 }",
        )
        .replace(
            "usage.export = { limit = 1_000 }",
            "usage.export = { mode = \"metered\", unit_price_micros = 333_333 }",
        );
    let file = crate::billing::worker::write(directory.path(), "plans.toml", &text);
    let (code, shown, log) = rig.rehearse(&["--plans", &file, "--keep"]).await;
    assert_eq!(code, 0, "{shown:#}\n{log}");
    let rows = rows(&shown);
    let expected = "end of the period | rehearse_export on rehearse_enterprise | 13.67 | 13.67 | ok";
    assert!(rows.iter().any(|row| row == expected), "{rows:#?}");
    // The clock is kept, also by the next rehearsal; the databases are not.
    let left = rig.left().await;
    assert!(left.len() == 1 && left[0].starts_with("kept "), "{left:?}");
    assert!(shown["report"]["test_clock"].as_str().unwrap().starts_with("clock_"));
    let products = rig.call(Method::GET, "/v1/products?limit=100").await;
    let products = products["data"].as_array().unwrap().iter();
    assert!(
        products
            .map(|product| product["id"].as_str().unwrap())
            .all(|id| id.starts_with("trendit_rehearse_"))
    );
}
