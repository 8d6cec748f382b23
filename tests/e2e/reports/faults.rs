//! Calls that fail before or after they take effect, and workers that die in between.

use std::time::Duration;

use billing_worker::reports;
use devstack::stripe_double::FaultKind;
use rand::RngExt;
use tokio::time::sleep;
use uuid::Uuid;

use super::rig::{DAY, HOUR, Rig, TYPES, month};

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_already_exists_is_delivered() {
    for kind in [
        FaultKind::ServerError,
        FaultKind::Reset,
        FaultKind::CutBody,
        FaultKind::Hang { ms: 10 },
    ] {
        let rig = Rig::start().await;
        let account = rig.account().await;
        rig.use_units(&account, month(0), "api_call", &[8]).await;
        rig.stripe.add_fault(rig.fault(kind).after().times(1));
        assert_eq!(rig.step().await.sent.postponed, 1, "{kind:?}");
        assert_eq!(rig.count("open").await, 1);
        rig.use_units(&account, month(0), "api_call", &[2]).await;
        rig.stripe.advance_by(60);
        assert_eq!(rig.step().await.sent.delivered, 1);
        let statuses: Vec<_> = rig
            .stripe
            .requests()
            .iter()
            .filter(|request| request.path == "/v1/billing/meter_events")
            .map(|request| request.status)
            .collect();
        assert_eq!(statuses.last(), Some(&400), "{statuses:?}");
        rig.step().await;
        assert_eq!(rig.reported(&account, month(0), "api_call"), 10);
        rig.assert_told_is_counted(&[account], &[month(0)]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_success_that_is_not_stripes_answer_is_no_delivery() {
    for kind in [FaultKind::BrokenJson, FaultKind::OtherJson] {
        for is_applied in [true, false] {
            let rig = Rig::start().await;
            let account = rig.account().await;
            rig.use_units(&account, month(0), "api_call", &[8]).await;
            let fault = rig.fault(kind).times(1);
            rig.stripe.add_fault(if is_applied { fault.after() } else { fault });
            let first = rig.step().await.sent;
            assert_eq!((first.delivered, first.postponed), (0, 1), "{kind:?} {is_applied}");
            rig.stripe.advance_by(60);
            assert_eq!(rig.step().await.sent.delivered, 1, "{kind:?} {is_applied}");
            assert_eq!(rig.reported(&account, month(0), "api_call"), 8);
            rig.assert_told_is_counted(&[account], &[month(0)]).await;
        }
    }
}

/// Without a comparison, sending it again would count the units twice, because Stripe has forgotten the identifier.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_report_with_an_unknown_outcome_is_compared_before_it_is_sent_again() {
    for is_applied in [true, false] {
        let rig = Rig::start().await;
        let account = rig.account().await;
        rig.use_units(&account, month(0), "api_call", &[100]).await;
        rig.step().await;
        rig.use_units(&account, month(0), "api_call", &[8]).await;
        let fault = rig.fault(FaultKind::Reset).times(1);
        rig.stripe.add_fault(if is_applied { fault.after() } else { fault });
        assert_eq!(rig.step().await.sent.postponed, 1);
        rig.use_units(&account, month(0), "api_call", &[1]).await;
        rig.stripe.advance_by(25 * HOUR);
        rig.stripe.clear_requests();
        rig.step().await;
        let asked = rig.stripe.requests();
        let first = asked
            .iter()
            .find(|request| request.path.starts_with("/v1/billing/meter"));
        assert_eq!(first.unwrap().method, "GET", "{asked:?}");
        let sent = asked.iter().filter(|request| request.method == "POST").count();
        assert_eq!(sent, usize::from(!is_applied));
        rig.step().await;
        rig.step().await;
        assert_eq!(rig.reported(&account, month(0), "api_call"), 109);
        rig.assert_told_is_counted(&[account], &[month(0)]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unexpected_summaries_park_the_report() {
    let rig = Rig::start().await;
    let account = rig.account().await;
    rig.use_units(&account, month(0), "api_call", &[8]).await;
    rig.stripe.add_fault(rig.fault(FaultKind::Reset).times(1));
    rig.step().await;
    // Someone else has reported units of the same customer.
    let event = [
        ("event_name", "trendit_api_call".to_owned()),
        ("payload[stripe_customer_id]", account.customer.clone()),
        ("payload[value]", "3".to_owned()),
    ];
    rig.call(http::Method::POST, "/v1/billing/meter_events", &event).await;
    rig.stripe.advance_by(25 * HOUR);
    let step = rig.step().await;
    assert_eq!((step.sent.delivered, step.sent.parked), (0, 1));
    assert_eq!(
        rig.reported(&account, month(0), "api_call"),
        3,
        "no further event is sent"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rate_limits_locks_and_an_unreachable_stripe_lose_nothing() {
    let rig = Rig::start().await;
    let accounts = rig.accounts(10, month(0)).await;
    let usage = accounts.iter().map(|account| (account.id, "export", 9));
    rig.insert(month(0), usage, Uuid::nil()).await;
    let limited = FaultKind::TooManyRequests {
        retry_after_s: Some(90),
    };
    rig.stripe.add_fault(rig.fault(limited));
    assert_eq!(rig.step().await.sent.postponed, 10);
    assert!(
        rig.attention().await.waiting_reports.is_empty(),
        "one failure is soon over"
    );
    for _ in 0..2 {
        rig.stripe.advance_by(HOUR);
        assert_eq!(rig.step().await.sent.postponed, 10);
    }
    let waiting = rig.attention().await.waiting_reports;
    assert_eq!((waiting.len(), waiting[0].attempts), (10, 3));
    assert!(waiting[0].error.as_deref().unwrap().contains("Stripe accepts no calls"));
    rig.stripe.clear_faults();
    rig.stripe.advance_by(60);
    assert_eq!(
        rig.step().await.sent.delivered,
        0,
        "not before the time that Stripe asked for"
    );
    rig.stripe.advance_by(60);
    assert_eq!(rig.step().await.sent.delivered, 10);
    assert!(rig.attention().await.waiting_reports.is_empty());
    rig.assert_told_is_counted(&accounts, &[month(0)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_accounts_match_stripe_exactly_through_faults_and_deaths() {
    const ACCOUNTS: usize = 200;
    let rig = Rig::start().await;
    let accounts = rig.accounts(ACCOUNTS, month(0)).await;
    rig.stripe.set_latency(Duration::from_millis(5));
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
        // Seven rules, each applied to the calls that the previous ones left: together about 10 %.
        let fault = rig.fault(kind).probability(0.015, seed);
        rig.stripe.add_fault(if is_after { fault.after() } else { fault });
    }
    let mut died = 0;
    for round in 0..20 {
        let usage: Vec<_> = accounts
            .iter()
            .flat_map(|account| TYPES.map(|usage_type| (account.id, usage_type, rand::rng().random_range(0..50))))
            .collect();
        rig.insert(month(0), usage, Uuid::nil()).await;
        let account = &accounts[round];
        rig.use_units(account, month(0), "api_call", &[20]).await;
        rig.correct(account, month(0), "api_call", 10).await;
        // Some workers die while they count and write, most while they send.
        rig.stripe.clear_requests();
        let (calls, pause) = (rand::rng().random_range(0..300), rand::rng().random_range(0..60));
        let dies = async {
            while round % 5 != 0 && rig.stripe.requests().len() < calls {
                sleep(Duration::from_millis(1)).await;
            }
            sleep(Duration::from_millis(pause)).await;
        };
        tokio::select! {
            biased;
            () = dies => died += 1,
            done = reports::step(&rig.reporter, rig.now()) => drop(done.unwrap()),
        }
        // Sometimes longer than Stripe remembers an identifier. The calls of a dead worker have arrived by then, because no
        // call takes a day.
        if round % 7 == 6 {
            rig.step().await;
        }
        rig.end_claims().await;
        rig.stripe.advance_by(if round % 7 == 6 { 26 * HOUR } else { 400 });
    }
    println!("{died} of 20 steps died");
    assert!(died >= 15);
    rig.stripe.clear_faults();
    rig.stripe.set_latency(Duration::ZERO);
    for _ in 0..6 {
        rig.stripe.advance_by(2 * HOUR);
        rig.step().await;
    }
    assert!(rig.now() < month(0).end - DAY);
    let parked: Vec<(String, Option<String>)> =
        sqlx::query_as("select identifier, error from meter_reports where state = 'parked'")
            .fetch_all(&rig.db)
            .await
            .unwrap();
    assert_eq!(parked, []);
    rig.assert_told_is_counted(&accounts, &[month(0)]).await;
}
