//! Metered usage: Stripe gets exactly the units that ClickHouse has counted, whatever fails on the way.

mod faults;
mod killed;
mod late;
mod many;
mod open;
mod reconcile;
mod rig;
mod segments;
pub(crate) mod usage;
mod workers;

use std::time::{Duration, Instant};

use billing_worker::{
    administration::{Administration, By, announce::Announcer, page::Page},
    reports::{
        self, ReportSettings,
        list::{self, ReportState},
    },
};
use devstack::{Service, StripeDoubleOptions, http::Http};
use harness::eventually;
use schema::Period;
use uuid::Uuid;

use self::rig::{DAY, HOUR, Rig, TYPES, month};
use crate::billing::worker::{TOKEN, WorkerServers};

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_reported_once_and_then_only_new_usage() {
    let rig = Rig::start().await;
    let account = rig.account().await;
    for usage_type in TYPES {
        rig.use_units(&account, month(0), usage_type, &[1, 10, 100, 1000]).await;
    }
    let step = rig.step().await;
    assert_eq!((step.written, step.sent.delivered), (3, 3));
    assert_eq!(rig.step().await, reports::Step::default(), "nothing is new");
    rig.use_units(&account, month(0), "export", &[5]).await;
    assert_eq!(rig.step().await.sent.delivered, 1);
    assert_eq!(rig.reported(&account, month(0), "export"), 1116);
    rig.assert_told_is_counted(&[account], &[month(0)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_correction_lowers_stripes_units_and_an_unexplained_loss_is_never_sent() {
    let rig = Rig::start().await;
    let account = rig.account().await;
    rig.use_units(&account, month(0), "api_call", &[100, 50]).await;
    rig.step().await;
    rig.correct(&account, month(0), "api_call", 30).await;
    assert_eq!(rig.step().await.sent.delivered, 1);
    assert_eq!(rig.reported(&account, month(0), "api_call"), 120);
    // The numbers rise and fall between the same values: each change is a new report, not a repetition.
    for _ in 0..3 {
        rig.use_units(&account, month(0), "api_call", &[30]).await;
        rig.step().await;
        rig.correct(&account, month(0), "api_call", 30).await;
        rig.step().await;
    }
    rig.assert_told_is_counted(std::slice::from_ref(&account), &[month(0)])
        .await;

    // Lost rows are not a correction.
    let lost = "delete from usage_events where cost_units = 50";
    rig.clickhouse.query(lost).execute().await.unwrap();
    let step = rig.step().await;
    assert_eq!((step.written, step.drifts), (0, 1));
    assert_eq!(rig.step().await.drifts, 0, "a known drift is not new");
    assert_eq!(rig.reported(&account, month(0), "api_call"), 120);
    let attention = rig.attention().await;
    assert_eq!(attention.drifts[0].drift_units, -50);
    rig.use_units(&account, month(0), "api_call", &[50]).await;
    rig.step().await;
    assert!(rig.attention().await.drifts.is_empty());
    rig.assert_told_is_counted(&[account], &[month(0)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_correction_that_usage_outweighed_explains_no_later_loss() {
    let rig = Rig::start().await;
    let account = rig.account().await;
    rig.use_units(&account, month(0), "api_call", &[15, 55]).await;
    rig.correct(&account, month(0), "api_call", 20).await;
    rig.step().await;
    assert_eq!(rig.reported(&account, month(0), "api_call"), 50);
    let lost = "delete from usage_events where cost_units = 15";
    rig.clickhouse.query(lost).execute().await.unwrap();
    let step = rig.step().await;
    assert_eq!((step.written, step.drifts), (0, 1));
    assert_eq!(rig.reported(&account, month(0), "api_call"), 50);
    // A later correction explains only its own units.
    rig.use_units(&account, month(0), "api_call", &[15]).await;
    rig.correct(&account, month(0), "api_call", 5).await;
    let step = rig.step().await;
    assert_eq!((step.sent.delivered, step.drifts), (1, 0));
    rig.assert_told_is_counted(&[account], &[month(0)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_customer_is_parked_and_the_others_continue() {
    let rig = Rig::start().await;
    let accounts = rig.accounts(20, month(0)).await;
    let bad = "update billing_periods set customer_id = '' where account_id = $1";
    sqlx::query(bad).bind(accounts[3].id.0).execute(&rig.db).await.unwrap();
    // Deleted in Stripe. Stripe would accept the events and bill no customer.
    let gone = "update stripe_customers set deleted_at = now() where account_id = $1";
    sqlx::query(gone).bind(accounts[5].id.0).execute(&rig.db).await.unwrap();
    let usage = accounts.iter().map(|account| (account.id, "api_call", 7));
    rig.insert(month(0), usage, Uuid::nil()).await;
    let step = rig.step().await;
    assert_eq!((step.sent.delivered, step.sent.parked), (18, 2));
    rig.stripe.advance_by(2 * HOUR);
    let usage = accounts.iter().map(|account| (account.id, "api_call", 1));
    rig.insert(month(0), usage, Uuid::nil()).await;
    assert_eq!(rig.step().await.sent.delivered, 18, "parked reports are not retried");

    let page = Page {
        limit: None,
        after: None,
    };
    let parked = list::list(&rig.db, Some(ReportState::Parked), page)
        .await
        .unwrap()
        .items;
    let accounts_parked: Vec<_> = parked.iter().map(|report| report.account_id).collect();
    assert!(accounts_parked.contains(&accounts[3].id) && accounts_parked.contains(&accounts[5].id));
    let refused = parked
        .iter()
        .find(|report| report.account_id == accounts[3].id)
        .unwrap();
    assert!(
        refused.error.as_deref().unwrap().contains("stripe_customer_id"),
        "{refused:?}"
    );
    for (n, customer) in [(3, &accounts[3].customer), (5, &accounts[5].customer)] {
        let repaired = "with p as (update billing_periods set customer_id = $2 where account_id = $1),
             c as (update stripe_customers set deleted_at = null where account_id = $1)
             update meter_reports set customer_id = $2 where account_id = $1";
        let repaired = sqlx::query(repaired).bind(accounts[n].id.0).bind(customer);
        repaired.execute(&rig.db).await.unwrap();
    }
    let admin = Administration {
        db: rig.db.clone(),
        catalogue: rig.reporter.catalogue.clone(),
        announcer: Announcer::of_service(Default::default()),
        clickhouse: rig.clickhouse.clone(),
        corrections_wait: Default::default(),
        name: None,
        by: By::AdminApi,
    };
    for report in parked {
        list::retry(&admin, &report.identifier, rig.now()).await.unwrap();
        assert!(list::retry(&admin, &report.identifier, rig.now()).await.is_err());
    }
    rig.step().await;
    rig.step().await;
    rig.assert_told_is_counted(&accounts, &[month(0)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_meter_parks_nothing() {
    let rig = Rig::start().await;
    let account = rig.account().await;
    // A usage type that is not in the catalogue either.
    rig.use_units(&account, month(0), "translation", &[4]).await;
    rig.step().await;
    rig.use_units(&account, month(0), "api_call", &[6]).await;
    let failure = reports::step(&rig.reporter, rig.now()).await.unwrap_err();
    assert!(format!("{failure:#}").contains("no meter"), "{failure:#}");
    let counts = (rig.count("open").await, rig.count("parked").await);
    assert_eq!(counts, (1, 0));
    assert_eq!(rig.reported(&account, month(0), "api_call"), 6, "other types continue");
    assert_eq!(rig.stripe.violations(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn flush_reports_all_of_one_account_at_once() {
    let rig = Rig::start().await;
    let accounts = rig.accounts(2, month(0)).await;
    for account in &accounts {
        rig.use_units(account, month(0), "api_call", &[10]).await;
    }
    rig.stripe.add_fault(
        rig.fault(devstack::stripe_double::FaultKind::ServerError)
            .after()
            .times(1),
    );
    rig.step().await;
    rig.use_units(&accounts[0], month(0), "api_call", &[5]).await;
    rig.use_units(&accounts[1], month(0), "api_call", &[5]).await;
    for account in &accounts {
        // One of them waits for its next retry. A flush does not wait.
        let flushed = reports::flush(&rig.reporter, account.id, rig.now()).await.unwrap();
        assert_eq!((flushed.open, flushed.parked), (0, 0));
        assert_eq!(rig.reported(account, month(0), "api_call"), 15);
    }
    rig.assert_told_is_counted(&accounts, &[month(0)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_accounts_are_reported_in_seconds() {
    let count = std::env::var("REPORT_ACCOUNTS").map_or(2_000, |count| count.parse().unwrap());
    let rig = Rig::with(StripeDoubleOptions::default(), ReportSettings::default()).await;
    let accounts = rig.accounts(count, month(0)).await;
    let usage = accounts.iter().map(|account| (account.id, "api_call", 3));
    rig.insert(month(0), usage, Uuid::nil()).await;
    rig.stripe.set_latency(Duration::from_millis(30));
    let began = Instant::now();
    let step = rig.step().await;
    let took = began.elapsed();
    println!("{count} accounts reported in {took:.2?}");
    assert_eq!(step.sent.delivered, count as u64);
    // Sequential calls would take 30 ms for each account.
    assert!(took < Duration::from_millis(count as u64 * 30), "{took:?}");
    rig.stripe.set_latency(Duration::ZERO);
    rig.assert_told_is_counted(&accounts, &[month(0)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_reports_on_its_own_and_shows_its_reports() {
    let now = schema::clock::now_s();
    let options = StripeDoubleOptions {
        start_at: Some(now),
        ..StripeDoubleOptions::default()
    };
    let rig = Rig::with(options, ReportSettings::default()).await;
    let period = Period {
        start: now - DAY,
        end: now + 29 * DAY,
    };
    let account = rig.accounts(1, period).await.remove(0);
    rig.use_units(&account, period, "api_call", &[41, 1]).await;
    let servers = WorkerServers::new().await;
    let (options, _) = servers.worker("reporting");
    let options = rig
        .env()
        .into_iter()
        .fold(options, |options, (name, value)| options.env(name, value));
    let service = Service::start(options.env("REPORT_INTERVAL", "0.2")).await.unwrap();
    eventually("the usage is reported", async || {
        (rig.reported(&account, period, "api_call") == 42).then_some(())
    })
    .await;
    let get = async |path: &str| {
        let url = format!("{}{path}", service.admin_url());
        Http::default().get(&url, TOKEN).await.unwrap()
    };
    let delivered = eventually("the report is delivered", async || {
        let listed = get("/admin/reports?state=delivered&limit=10").await.ok().unwrap();
        listed["items"].as_array().unwrap().first().cloned()
    })
    .await;
    assert_eq!(
        (&delivered["to_units"], &delivered["state"]),
        (&42.into(), &"delivered".into())
    );
    let attention = get("/admin/reports/attention").await.ok().unwrap();
    assert_eq!(
        attention,
        serde_json::json!({ "parked": [], "waiting_reports": [], "drifts": [], "waiting_carries": [], "unbilled": [],
                            "failing_events": [], "tasks": [], "findings": [], "differences": [] })
    );
    let identifier = delivered["identifier"].as_str().unwrap();
    let retry = |identifier: &str| format!("{}/admin/reports/{identifier}/retry", service.admin_url());
    for (identifier, status) in [(identifier, 409), ("nothing", 404)] {
        let empty = serde_json::json!({});
        let answer = Http::default().post(&retry(identifier), TOKEN, &empty).await.unwrap();
        assert_eq!(answer.status.as_u16(), status);
    }
    assert_eq!(get("/admin/reports?state=nonsense").await.status.as_u16(), 400);
    eventually("the metrics say so", async || {
        let units = r#"billing_reports_units_total{usage_type="api_call"}"#;
        let units = service.metric::<u64>(units).await.ok()?;
        (units == 42).then_some(())
    })
    .await;
}
