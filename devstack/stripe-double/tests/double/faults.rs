//! Injected faults, and Stripe's rules for retries.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use http::Method;
use stripe_double::StripeDoubleOptions;
use stripe_double::{FaultKind, FaultRule};

use crate::client::message;
use crate::rig::Rig;

const DAY: i64 = 86_400;

async fn rig() -> Rig {
    Rig::start(StripeDoubleOptions::default()).await
}

#[tokio::test]
async fn fault_before_does_nothing_and_after_does_everything() {
    let kinds = [
        FaultKind::TooManyRequests { retry_after_s: Some(2) },
        FaultKind::ServerError,
        FaultKind::Reset,
        FaultKind::Hang { ms: 20 },
        FaultKind::CutBody,
        FaultKind::BrokenJson,
    ];
    for kind in kinds {
        for (after, done) in [(false, 0), (true, 1)] {
            let rig = rig().await;
            let rule = FaultRule::new(kind).path("/v1/customers").times(1);
            rig.control.add_fault(if after { rule.after() } else { rule });
            let answer = rig.client.send(Method::POST, "/v1/customers", "name=Ada", "").await;
            match (kind, answer) {
                (FaultKind::TooManyRequests { .. }, Ok(answer)) => {
                    assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (429, Some("2")));
                }
                (FaultKind::ServerError, Ok(answer)) => assert_eq!(answer.status, 500),
                (FaultKind::BrokenJson, Ok(answer)) => assert!(answer.status.is_success() && answer.json().is_err()),
                (FaultKind::Reset | FaultKind::Hang { .. } | FaultKind::CutBody, Err(_)) => {}
                (kind, answer) => panic!("{kind:?}: {answer:?}"),
            }
            assert_eq!(rig.control.customers().len(), done, "{kind:?} after: {after}");
            rig.client.ok("/v1/customers", "name=Bob").await; // the fault is used up
            assert_eq!(rig.control.violations(), [""; 0]);
        }
    }
}

#[tokio::test]
async fn stored_500_is_replayed_and_429_is_not_stored() {
    let rig = rig().await;
    let create = async |key: &str| {
        rig.client
            .send(Method::POST, "/v1/customers", "name=Ada", key)
            .await
            .unwrap()
    };
    rig.control
        .add_fault(FaultRule::new(FaultKind::ServerError).times(1).after());
    for _ in 0..2 {
        assert_eq!(create("a").await.status, 500);
    }
    assert_eq!(
        rig.control.customers().len(),
        1,
        "the customer was created in spite of the error"
    );
    rig.control
        .add_fault(FaultRule::new(FaultKind::TooManyRequests { retry_after_s: None }).times(1));
    assert_eq!(create("b").await.status, 429);
    assert_eq!(create("b").await.status, 200);
    assert_eq!(create("b").await.header("idempotent-replayed"), Some("true"));
    rig.control.advance_by(DAY);
    assert_eq!(
        create("b").await.header("idempotent-replayed"),
        None,
        "keys are forgotten after 24 hours"
    );
    assert_eq!(rig.control.customers().len(), 3);
}

#[tokio::test]
async fn response_lost_after_the_work_is_found_under_its_key() {
    let rig = rig().await;
    rig.control.add_fault(FaultRule::new(FaultKind::Reset).times(1).after());
    let create = async || rig.client.send(Method::POST, "/v1/customers", "name=Ada", "k").await;
    assert!(create().await.is_err());
    assert!(create().await.unwrap().status.is_success());
    assert_eq!(rig.control.customers().len(), 1);
    let statuses: Vec<_> = rig.control.requests().iter().map(|request| request.status).collect();
    assert_eq!(statuses, [0, 200]);
}

#[tokio::test]
async fn one_key_or_one_meter_is_used_by_one_call_at_a_time() {
    let rig = rig().await;
    rig.catalogue().await;
    let (one, other) = (rig.customer().await, rig.customer().await);
    rig.control.set_latency(Duration::from_millis(200));
    let create = || rig.client.send(Method::POST, "/v1/customers", "name=Ada", "k");
    let (first, second) = tokio::join!(create(), create());
    let mut statuses = [first, second].map(|answer| answer.unwrap().status.as_u16());
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409]);

    let now = rig.control.now();
    let (a, b, c) = tokio::join!(
        rig.client.meter(&one, "a", 1, now),
        rig.client.meter(&one, "b", 10, now),
        rig.client.meter(&other, "c", 100, now)
    );
    assert_eq!(c.status, 200, "another customer's events do not wait");
    let mut statuses = [a.status.as_u16(), b.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 429]);
    let limited = if a.status == 429 { a } else { b };
    assert_eq!(limited.json().unwrap()["error"]["code"], "lock_timeout");
    let total = rig.control.meter_total(&one, "api_call", 0, i64::MAX);
    assert!(total == 1 || total == 10);
}

#[tokio::test]
async fn duplicate_meter_event_is_refused_for_exactly_24_hours() {
    let rig = rig().await;
    rig.catalogue().await;
    let customer = rig.customer().await;
    let at = rig.control.now();
    rig.client.meter(&customer, "a", 1, at).await.ok().unwrap();
    let again = rig.client.meter(&customer, "a", 10, at).await;
    assert_eq!(
        (again.status.as_u16(), again.header("stripe-should-retry")),
        (400, Some("false"))
    );
    assert_eq!(message(&again), "An event already exists with identifier a.");
    assert!(again.json().unwrap()["error"].get("code").is_none());
    rig.control.advance_to(at + DAY + 5);
    rig.client.meter(&customer, "a", 100, at).await.ok().unwrap();
    assert_eq!(rig.control.meter_total(&customer, "api_call", 0, i64::MAX), 101);
}

#[tokio::test]
async fn calls_past_the_limit_are_refused() {
    let rig = rig().await;
    rig.control.set_calls_per_second(Some(5));
    let calls = (0..20).map(|_| rig.client.send(Method::GET, "/v1/customers", "", ""));
    let statuses: Vec<_> = join_all(calls)
        .await
        .into_iter()
        .map(|answer| answer.unwrap().status.as_u16())
        .collect();
    let refused = statuses.iter().filter(|status| **status == 429).count();
    assert!((10..=15).contains(&refused), "{statuses:?}");
}

#[tokio::test]
async fn an_endpoint_that_is_called_too_often_refuses_while_others_answer() {
    let rig = rig().await;
    rig.control.set_endpoint_calls_per_second(Some(1));
    let paths = [0, 1, 2, 3, 4, 5, 6, 7].map(|n| format!("/v1/customers/cus_{n}"));
    let calls = paths.iter().map(|path| rig.client.send(Method::GET, path, "", ""));
    let answers: Vec<_> = join_all(calls).await.into_iter().map(Result::unwrap).collect();
    let refused: Vec<_> = answers.iter().filter(|answer| answer.status == 429).collect();
    assert!((1..8).contains(&refused.len()), "{answers:?}");
    assert_eq!(refused[0].header("stripe-rate-limited-reason"), Some("endpoint-rate"));
    rig.client.get("/v1/prices").await;
    assert_eq!(rig.control.violations(), [""; 0]);
}

#[tokio::test]
async fn latency_of_30_ms_leaves_room_for_2000_meter_events_a_second() {
    const CLIENTS: usize = 100;
    const EACH: usize = 40;
    let rig = rig().await;
    rig.catalogue().await;
    let customers = join_all((0..CLIENTS).map(|_| rig.customer())).await;
    rig.control.set_latency(Duration::from_millis(30));
    let (start, now) = (Instant::now(), rig.control.now());
    join_all(customers.iter().map(async |customer| {
        for n in 0..EACH {
            let answer = rig.client.meter(customer, &format!("{customer}-{n}"), 1, now).await;
            assert_eq!(answer.status, 200);
        }
    }))
    .await;
    let rate = (CLIENTS * EACH) as f64 / start.elapsed().as_secs_f64();
    println!("{rate:.0} meter events a second with {CLIENTS} clients and 30 ms each");
    // 100 clients with 30 ms per call make at most 3,333. A double that served one call at a time would make 33.
    assert!(rate > 500.0, "{rate:.0} a second");
    for customer in &customers {
        assert_eq!(
            rig.control.meter_total(customer, "api_call", 0, i64::MAX),
            i64::try_from(EACH).unwrap()
        );
    }
}
