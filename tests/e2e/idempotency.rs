//! A request with an `Idempotency-Key` is counted once, and every repetition gets the first response: through one gateway or
//! several, at once or later, even if processes die meanwhile. Units that were spent twice are returned once.

mod rig;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, extract::Request, routing::any};
use devstack::{http::HttpResponse, upstream::Upstream};
use futures_util::future::{join, join_all};
use harness::{StackOptions, eventually};
use schema::EventId;
use serde_json::json;

use rig::{Keys, error, event_of, replayed, usage};

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_gets_the_first_response_and_a_different_one_is_refused() {
    let mut keys = Keys::of_gateways(1).await;
    let first = keys.spend(0, "order-17", 3).await;
    assert_eq!(first.status, 200);
    assert!(!replayed(&first));
    let named = EventId::of_idempotency_key(keys.ada.account_id, "order-17").to_string();
    assert_eq!(event_of(&first), named);
    for key in ["order-17", "\"order-17\""] {
        let again = keys.spend(0, key, 3).await;
        assert!(replayed(&again), "{again:?}");
        assert_eq!((again.status, &again.body), (first.status, &first.body));
        for name in ["content-type", "ratelimit", "ratelimit-policy", "usage-event-id"] {
            assert!(first.header(name).is_some(), "{name}");
            assert_eq!(again.header(name), first.header(name));
        }
    }
    let reused = (422, "idempotency_key_reused".to_owned());
    assert_eq!(error(&keys.spend(0, "order-17", 4).await), reused);
    let batch = json!({ "events": [usage(3)] });
    assert_eq!(
        error(&keys.post(0, "/v1/usage/batch", "order-17", &batch).await),
        reused
    );
    for odd in ["", "a b", "\"open", "\"\"", &"k".repeat(256)] {
        assert_eq!(
            error(&keys.spend(0, odd, 3).await),
            (400, "invalid_request".into()),
            "{odd}"
        );
    }

    // The same key of another account is a different key.
    let bob = keys.stack.admin.customer("bob", "free").await.unwrap();
    let ada = std::mem::replace(&mut keys.ada, bob);
    let of_bob = keys.spend(0, "order-17", 3).await;
    assert!(!replayed(&of_bob));
    assert_ne!(event_of(&of_bob), named);
    keys.assert_stored(1, 3).await;
    keys.ada = ada;
    keys.assert_stored(1, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_concurrent_requests_with_one_key_are_counted_once() {
    let mut keys = Keys::of_gateways(1).await;
    let answers = join_all((0..50).map(|_| keys.spend(0, "k", 7))).await;
    let (done, waiting): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 200);
    assert_eq!(done.iter().filter(|answer| !replayed(answer)).count(), 1);
    assert!(done.iter().all(|answer| answer.body == done[0].body));
    for answer in waiting {
        assert_eq!(error(answer), (409, "idempotency_key_under_way".into()));
        assert!(answer.header("retry-after").is_some());
    }
    assert_eq!(keys.spend(0, "k", 7).await.body, done[0].body);
    keys.assert_stored(1, 7).await;
    keys.assert_returned(0, 7).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_used_at_two_gateways_at_once_are_counted_once_and_the_extra_units_return() {
    let mut keys = Keys::of_gateways(2).await;
    let both = (0..50).map(async |n| {
        let key = format!("key-{n}");
        let (a, b) = join(keys.spend(0, &key, 3), keys.spend(1, &key, 3)).await;
        assert_eq!(event_of(&a), event_of(&b));
    });
    join_all(both).await;
    // The same key with a different body, through a gateway that does not know the key: the first event counts.
    assert_eq!(keys.spend(0, "misused", 5).await.status, 200);
    assert_eq!(keys.spend(1, "misused", 500).await.status, 200);
    keys.assert_stored(51, 155).await;
    keys.assert_returned(51, 155).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn items_of_a_batch_are_counted_once_each() {
    let mut keys = Keys::of_gateways(2).await;
    let batch = json!({ "events": [usage(1), usage(10), { "usage_type": "nothing" }, usage(100)] });
    let path = "/v1/usage/batch";
    let (a, b) = join(keys.post(0, path, "b", &batch), keys.post(1, path, "b", &batch)).await;
    let ids = |answer: &HttpResponse| {
        let results = answer.ok().unwrap()["results"].as_array().unwrap().clone();
        results
            .iter()
            .map(|result| result["event_id"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(ids(&a), ids(&b));
    assert!(!replayed(&a) && !replayed(&b));
    let again = keys.post(0, path, "b", &batch).await;
    assert!(replayed(&again));
    assert_eq!(again.body, a.body);
    // A client's key that looks like the derived key of an item is a different key.
    assert_eq!(keys.spend(0, "b/0", 1_000).await.status, 200);
    keys.assert_stored(4, 1_111).await;
    keys.assert_returned(3, 1_111).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_of_a_partly_counted_batch_counts_only_the_rest() {
    let keys = Keys::of_gateways(1).await;
    let account = keys.ada.account_id;
    keys.stack.admin.set_limit(account, "api_call", 3).await.unwrap();
    let batch = json!({ "events": [usage(1), usage(1), usage(1), usage(1), usage(1)] });
    let post = async || keys.post(0, "/v1/usage/batch", "b", &batch).await;
    let results = |answer: &HttpResponse| answer.ok().unwrap()["results"].as_array().unwrap().clone();
    let statuses =
        |answer: &HttpResponse| -> Vec<_> { results(answer).iter().map(|item| item["status"].clone()).collect() };
    let first = post().await;
    assert_eq!(statuses(&first), [200, 200, 200, 429, 429]);
    let second = post().await;
    assert!(!replayed(&second));
    assert_eq!(
        statuses(&second),
        [200, 200, 200, 429, 429],
        "counted items are not spent again"
    );
    assert_eq!(error(&keys.spend(0, "b", 1).await).0, 422);

    keys.stack.admin.set_limit(account, "api_call", 5).await.unwrap();
    let done = eventually("the rest is counted", async || {
        let answer = post().await;
        (statuses(&answer) == [200, 200, 200, 200, 200]).then_some(answer)
    })
    .await;
    assert_eq!(results(&done)[..3], results(&first)[..3]);
    let again = post().await;
    assert!(replayed(&again));
    assert_eq!(again.body, done.body);
    keys.assert_stored(5, 5).await;
    assert_eq!(keys.duplicates().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_was_not_counted_can_be_retried() {
    let keys = Keys::of_gateways(1).await;
    keys.stack
        .admin
        .set_limit(keys.ada.account_id, "api_call", 5)
        .await
        .unwrap();
    let wrong = json!({ "usage_type": "nothing" });
    assert_eq!(keys.post(0, "/v1/usage", "k", &wrong).await.status, 404);
    assert_eq!(keys.spend(0, "k", 6).await.status, 429);
    assert_eq!(keys.spend(0, "k", 6).await.status, 429);
    keys.stack
        .admin
        .set_limit(keys.ada.account_id, "api_call", 6)
        .await
        .unwrap();
    let answer = eventually("the same key is admitted", async || {
        let answer = keys.spend(0, "k", 6).await;
        (answer.status == 200).then_some(answer)
    })
    .await;
    assert!(!replayed(&answer));
    // No units are left, but the stored response is still returned.
    assert!(replayed(&keys.spend(0, "k", 6).await));
    keys.assert_stored(1, 6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_counted_once_even_after_its_response_is_forgotten() {
    let mut keys = Keys::with(&[("IDEMPOTENCY_TTL", "0.5")]).await;
    let first = event_of(&keys.spend(0, "k", 4).await);
    assert_eq!(keys.spend(0, "k", 5).await.status, 422);
    let again = eventually("the answer is forgotten", async || {
        let again = keys.spend(0, "k", 4).await;
        (!replayed(&again)).then_some(again)
    })
    .await;
    assert_eq!(event_of(&again), first);
    keys.assert_stored(1, 4).await;
    keys.assert_returned(1, 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_responses_stay_within_their_memory_limit() {
    let keys = Keys::with(&[("IDEMPOTENCY_MEMORY_MAX", "50000")]).await;
    for n in 0..200 {
        assert_eq!(keys.spend(0, &format!("key-{n}"), 1).await.status, 200);
    }
    assert!(keys.metric("idempotency_memory_bytes").await <= 50_000);
    assert!(keys.metric("idempotency_evicted_total").await > 0);
    assert!(
        replayed(&keys.spend(0, "key-199", 1).await),
        "the latest responses are kept"
    );
    assert!(!replayed(&keys.spend(0, "key-0", 1).await));
    keys.assert_stored(200, 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hung_up_gets_its_response_on_retry() {
    // Without a spool a request waits for NATS, and here much longer than this test takes.
    let settings = [("LANE_STUCK_AFTER", "60"), ("OUTCOME_DEADLINE", "120")];
    let mut keys = Keys::start(StackOptions {
        gateway_env: settings.map(|(name, value)| (name, value.to_owned())).into(),
        no_spool: true,
        ..StackOptions::default()
    })
    .await;
    // Afterwards the key is cached and units are leased.
    assert_eq!(keys.spend(0, "before", 1).await.status, 200);
    keys.stack.nats.pause().unwrap();
    // Every client that gets no response hangs up. Once one request has reached the gateway, the next client gets the response that the
    // key is in use.
    let answer = eventually("the key is in use", async || {
        tokio::time::timeout(Duration::from_millis(300), keys.spend(0, "k", 10))
            .await
            .ok()
    })
    .await;
    assert_eq!(error(&answer), (409, "idempotency_key_under_way".into()));
    assert_eq!(keys.spend(0, "k", 11).await.status, 422);
    keys.stack.nats.resume().unwrap();
    let answer = eventually("the response is available", async || {
        let answer = keys.spend(0, "k", 10).await;
        (answer.status == 200).then_some(answer)
    })
    .await;
    assert!(replayed(&answer), "the response was stored for the client that hung up");
    keys.assert_stored(2, 11).await;
    assert_eq!(keys.duplicates().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_with_an_unknown_outcome_accepts_only_the_same_request_again() {
    let settings = [("LANE_STUCK_AFTER", "1"), ("OUTCOME_DEADLINE", "2")];
    let mut keys = Keys::start(StackOptions {
        gateway_env: settings.map(|(name, value)| (name, value.to_owned())).into(),
        // With a spool the outcome would be known, because the event would be spooled.
        no_spool: true,
        ..StackOptions::default()
    })
    .await;
    assert_eq!(keys.spend(0, "before", 1).await.status, 200);
    keys.stack.nats.pause().unwrap();
    assert_eq!(error(&keys.spend(0, "k", 10).await), (504, "outcome_unknown".into()));
    assert_eq!(keys.spend(0, "k", 11).await.status, 422);
    assert_eq!(keys.spend(0, "k", 10).await.status, 503);
    assert_eq!(keys.spend(0, "k", 11).await.status, 422);
    keys.stack.nats.resume().unwrap();
    eventually("the request is counted", async || {
        (keys.spend(0, "k", 10).await.status == 200).then_some(())
    })
    .await;
    assert!(replayed(&keys.spend(0, "k", 10).await));
    keys.assert_stored(2, 11).await;
    // One event was dropped as a duplicate, or none if the first one was not stored.
    keys.stop_gateways().await;
    keys.assert_all_returned(11).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_forwards_the_key_and_counts_it_once() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let upstream = Router::new().fallback(any(async move |request: Request| {
        let key = request.headers().get("idempotency-key").cloned();
        log.lock().unwrap().push(key.unwrap().to_str().unwrap().to_owned());
        format!("answer {}", log.lock().unwrap().len())
    }));
    let upstream = Upstream::serve(upstream).await.unwrap();
    let mut keys = Keys::start(StackOptions {
        upstream_url: Some(upstream.url().to_owned()),
        ..StackOptions::default()
    })
    .await;
    let export = async || keys.post(0, "/api/export/posts/csv", "\"order-17\"", &json!({})).await;
    let (first, second) = (export().await, export().await);
    assert_eq!(
        (&first.body[..], &second.body[..]),
        (&b"answer 1"[..], &b"answer 2"[..])
    );
    assert_eq!(first.header("usage-event-id"), second.header("usage-event-id"));
    // A different request is a different event, even with the same key.
    let other = keys
        .post(0, "/api/export/posts/csv?all=1", "\"order-17\"", &json!({}))
        .await;
    assert_ne!(first.header("usage-event-id"), other.header("usage-event-id"));
    assert_eq!(*seen.lock().unwrap(), ["\"order-17\""; 3]);
    // The same for a proxy that asks for authorization first.
    for _ in 0..2 {
        let asked = keys
            .post(0, "/v1/authorize/api/export/posts/csv", "order-18", &json!({}))
            .await;
        assert_eq!(asked.status, 200);
    }
    keys.assert_stored(3, 3).await;
    keys.assert_returned(2, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn units_return_once_although_billing_workers_and_ingestors_die() {
    let mut keys = Keys::of_gateways(2).await;
    for round in 0..6 {
        let both = (0..40).map(async |n| {
            let key = format!("{round}-{n}");
            let (a, b) = join(keys.spend(0, &key, 2), keys.spend(1, &key, 2)).await;
            assert_eq!(event_of(&a), event_of(&b));
        });
        join_all(both).await;
        let given_back = async || -> Option<i64> {
            let count = sqlx::query_scalar("select count(*) from duplicate_returns");
            count.fetch_one(&keys.stack.pool).await.ok()
        };
        match round % 3 {
            // As close to the middle of it as possible.
            0 => {
                eventually("some units are returned", async || {
                    given_back().await.filter(|count| *count > round * 40)
                })
                .await
            }
            _ => 0,
        };
        keys.stack.billing.kill().await.unwrap();
        keys.stack.ingestors[0].kill().await.unwrap();
        keys.stack.ingestors[0].restart().await.unwrap();
        keys.stack.billing.restart().await.unwrap();
    }
    keys.assert_stored(240, 480).await;
    keys.assert_returned(240, 480).await;
}
