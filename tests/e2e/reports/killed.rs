//! The billing worker is killed many times: a thousand accounts subscribe and use units, and one in ten calls to Stripe fails.
//! In the end no account is two customers, and Stripe has the same units as ClickHouse.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use devstack::{
    DataDir, Nats, NatsOptions, Service, StripeDoubleOptions,
    http::Http,
    stripe_double::{FaultKind, FaultRule},
};
use futures_util::{StreamExt, stream};
use harness::{eventually, until_all};
use rand::RngExt;
use schema::{AccountId, api_key::ApiKey, clock};
use serde_json::json;
use tokio::process::Command;
use uuid::Uuid;

use super::rig::{Account, Rig, TYPES};
use crate::{SERVICES, billing::worker::output};

const ACCOUNTS: usize = 1_000;
const KILLS: usize = 20;
const KILLS_WHILE_SUBSCRIBING: usize = 14;

struct Subscriber {
    account: AccountId,
    key: ApiKey,
}

async fn subscribers(rig: &Rig) -> Vec<Subscriber> {
    let new = |_| Subscriber {
        account: AccountId::new(),
        key: ApiKey::generate(),
    };
    let subscribers: Vec<Subscriber> = (0..ACCOUNTS).map(new).collect();
    let ids: Vec<Uuid> = subscribers.iter().map(|one| one.account.0).collect();
    sqlx::query("insert into accounts (id, name, email) select a, 'n', a || '@example.com' from unnest($1::uuid[]) a")
        .bind(&ids)
        .execute(&rig.db)
        .await
        .unwrap();
    sqlx::query(
        "insert into api_keys (id, account_id, secret_sha256, name, scopes)
         select k, a, h, 'n', '{billing}' from unnest($1::uuid[], $2::uuid[], $3::bytea[]) as u (k, a, h)",
    )
    .bind(subscribers.iter().map(|one| one.key.id().0).collect::<Vec<_>>())
    .bind(&ids)
    .bind(
        subscribers
            .iter()
            .map(|one| one.key.hash().as_bytes().to_vec())
            .collect::<Vec<_>>(),
    )
    .execute(&rig.db)
    .await
    .unwrap();
    subscribers
}

/// Calls that fail, some before and some after they take effect: together about one in ten.
fn add_faults(rig: &Rig) {
    let faults = [
        (FaultKind::ServerError, false),
        (FaultKind::ServerError, true),
        (FaultKind::Reset, false),
        (FaultKind::Reset, true),
        (FaultKind::CutBody, true),
        (FaultKind::BrokenJson, true),
        (FaultKind::TooManyRequests { retry_after_s: None }, false),
    ];
    for (seed, (kind, is_after)) in (0..).zip(faults) {
        let fault = FaultRule::new(kind).path("/v1/").probability(0.015, seed);
        rig.stripe.add_fault(if is_after { fault.after() } else { fault });
    }
}

/// Accounts with their billing periods, as written by the worker.
async fn billed(rig: &Rig) -> Vec<(Uuid, String, i64, i64)> {
    sqlx::query_as(
        "select account_id, customer_id, extract(epoch from period_start)::bigint, extract(epoch from period_end)::bigint
         from billing_periods",
    )
    .fetch_all(&rig.db)
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_accounts_match_stripe_exactly_although_the_worker_is_killed_twenty_times() {
    let options = StripeDoubleOptions {
        // The worker is a process and uses the real clock.
        start_at: Some(clock::now_s()),
        requests_kept: 1_000,
        ..StripeDoubleOptions::default()
    };
    let rig = Rig::with(options, Default::default()).await;
    let data = DataDir::create().unwrap();
    let nats = Nats::start(&data.path().join("nats"), &NatsOptions::default())
        .await
        .unwrap();
    let settings = [
        ("STRIPE_CALLS_PER_SECOND", "1000"),
        ("STRIPE_METER_EVENTS_PER_SECOND", "5000"),
        ("REPORT_INTERVAL", "1"),
    ];
    let (mut worker, url) = rig.start_worker(&data, &nats, &settings).await;
    let mut sync = Command::new(SERVICES);
    sync.args(["service", "billing-worker", "stripe", "sync"])
        .envs(rig.env());
    assert!(output(sync).await.status.success());
    rig.stripe
        .add_webhook(&format!("{url}/billing/webhooks/stripe"))
        .unwrap();
    let subscribers = subscribers(&rig).await;
    add_faults(&rig);

    let (http, subscribed, over) = (Http::default(), AtomicUsize::new(0), AtomicBool::new(false));
    // Each client retries until it has a checkout, as a real client would, and pays.
    let subscribing = stream::iter(&subscribers).for_each_concurrent(16, async |one| {
        let opened = eventually("a checkout is opened", async || {
            let tier = json!({ "tier": "pro" });
            let path = format!("{url}/billing/create-checkout-session");
            let answer = http.post(&path, one.key.reveal(), &tier).await.ok()?;
            answer.ok().ok()
        })
        .await;
        rig.stripe
            .complete_checkout(opened["session_id"].as_str().unwrap())
            .unwrap();
        subscribed.fetch_add(1, Ordering::Relaxed);
    });
    let rounds = AtomicUsize::new(0);
    let using = async {
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        while !over.load(Ordering::Relaxed) {
            ticks.tick().await;
            for (start, accounts) in by_start(billed(&rig).await) {
                let usage: Vec<_> = accounts
                    .iter()
                    .flat_map(|account| TYPES.map(|kind| (*account, kind, rand::rng().random_range(1..50))))
                    .collect();
                let period = schema::Period { start, end: start + 1 };
                rig.insert(period, usage, Uuid::nil()).await;
            }
            rounds.fetch_add(1, Ordering::Relaxed);
        }
    };
    let killing = async {
        // After each share of the accounts has subscribed.
        for kill in 1..=KILLS_WHILE_SUBSCRIBING {
            eventually("more accounts subscribe", async || {
                let share = kill * ACCOUNTS / (KILLS_WHILE_SUBSCRIBING + 1);
                (subscribed.load(Ordering::Relaxed) >= share).then_some(())
            })
            .await;
            die(&rig, &mut worker).await;
        }
        until_all("every account has its billing period", ACCOUNTS, async || {
            // A failed event would wait longer than this test.
            sqlx::query(
                "update webhook_events set next_attempt_at = now()
                 where state = 'received' and error is not null
                   and next_attempt_at between now() + interval '5 s' and now() + interval '200 s'",
            )
            .execute(&rig.db)
            .await
            .unwrap();
            billed(&rig).await.len()
        })
        .await;
        // While all accounts use units.
        for _ in KILLS_WHILE_SUBSCRIBING..KILLS {
            let before = rounds.load(Ordering::Relaxed);
            eventually("all accounts use more", async || {
                (rounds.load(Ordering::Relaxed) > before + 1).then_some(())
            })
            .await;
            die(&rig, &mut worker).await;
        }
        over.store(true, Ordering::Relaxed);
    };
    tokio::join!(subscribing, using, killing);
    rig.stripe.clear_faults();

    let accounts = billed(&rig).await;
    let customers = rig.stripe.customers();
    assert_eq!(customers.len(), ACCOUNTS, "no account is two customers");
    let lines: Vec<_> = accounts
        .into_iter()
        .map(|(id, customer, start, end)| {
            let account = Account {
                id: AccountId(id),
                customer,
            };
            (account, schema::Period { start, end })
        })
        .collect();
    let sums = rig.sums().await;
    eventually("Stripe has all counted units", async || {
        // A failed report would wait longer than this test.
        sqlx::query(
            "update meter_reports set next_attempt_at = now() - interval '1 minute'
             where state = 'open' and claimed_until is null and next_attempt_at > now()",
        )
        .execute(&rig.db)
        .await
        .unwrap();
        let is_told = |(account, period): &(Account, schema::Period)| {
            TYPES.iter().all(|kind| {
                let line = (account.id, period.start, (*kind).to_owned());
                rig.reported(account, *period, kind) == sums.get(&line).copied().unwrap_or(0)
            })
        };
        lines.iter().all(is_told).then_some(())
    })
    .await;
    eventually("no report is open", async || {
        (rig.count("open").await == 0).then_some(())
    })
    .await;
    assert_eq!(rig.count("parked").await, 0);
    assert_eq!(sums.len(), ACCOUNTS * TYPES.len());
    assert_eq!(rig.stripe.violations(), Vec::<String>::new());
    worker.stop(Duration::from_secs(40)).await.unwrap();
    // The ledger check of every line, after the system has settled.
    assert_eq!(rig.sums().await, sums);
    let lines_of_ledger = rig.lines().await;
    assert_eq!(lines_of_ledger.len(), sums.len());
    assert!(
        lines_of_ledger.values().all(|line| *line == (0, 0, 0)),
        "nothing is carried, nothing drifts"
    );
}

/// `kill -9` and a restart. The claims and leases of the dead worker would expire after up to some minutes, so pretend that
/// they have.
async fn die(rig: &Rig, worker: &mut Service) {
    worker.kill().await.unwrap();
    for freed in [
        "update meter_reports set claimed_until = null where claimed_until is not null",
        "update webhook_events set claimed_until = now() where claimed_until is not null",
        "update subscription_leases set held_until = now()",
        "update webhook_events set next_attempt_at = now() where state = 'received' and next_attempt_at > now()",
    ] {
        sqlx::query(freed).execute(&rig.db).await.unwrap();
    }
    worker.restart().await.unwrap();
}

/// One insert per period, because each period begins when its account paid.
fn by_start(billed: Vec<(Uuid, String, i64, i64)>) -> Vec<(i64, Vec<AccountId>)> {
    let mut starts: std::collections::BTreeMap<i64, Vec<AccountId>> = Default::default();
    for (account, _, start, _) in billed {
        starts.entry(start).or_default().push(AccountId(account));
    }
    starts.into_iter().collect()
}
