//! Corrections that are refused.

use harness::{Client, StackOptions, eventually};
use schema::{AccountId, EventId};
use serde_json::{Value, json};

use super::books::{Books, void};

#[tokio::test(flavor = "multi_thread")]
async fn an_impossible_correction_is_refused_as_a_whole_with_the_reason() {
    let books = Books::open(StackOptions::default()).await;
    let bob = books.stack.admin.customer("bob", "pro").await.unwrap();
    let bobs = Client::new(books.stack.gateway(0), &bob)
        .spend("api_call", 9)
        .await
        .unwrap()
        .ok()
        .unwrap();
    let bobs: EventId = bobs["event_id"].as_str().unwrap().parse().unwrap();
    books.stack.assert_stored(bob.account_id, 1, 9).await;
    let events = books.spend("api_call", &[10, 4]).await;
    let voided = books.request(json!([void(&events[0])]));
    books.correct(&voided).await.ok().unwrap();
    books.until_published().await;
    let correcting = books.read("corrections").await["items"][0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    books.stack.assert_stored(books.ada.account_id, 3, 4).await;
    let good = void(&events[1]);

    let nobody = AccountId::new().to_string();
    let with = |name: &str, value: Value| {
        let mut request = books.request(json!([good]));
        request[name] = value;
        request
    };
    let without = |name: &str| {
        let mut request = books.request(json!([good]));
        request.as_object_mut().unwrap().remove(name);
        request
    };
    for (request, status, error, named) in [
        (
            books.request(json!([good, void(&EventId::new())])),
            404,
            "unknown_event",
            "may take a few seconds",
        ),
        (books.request(json!([good, void(&bobs)])), 404, "unknown_event", "event"),
        (
            books.request(json!([good, void(&events[0])])),
            409,
            "nothing_to_correct",
            "already has 0 units",
        ),
        (
            books.request(json!([{ "event_id": events[1], "cost_units": 4 }])),
            409,
            "nothing_to_correct",
            "already has 4 units",
        ),
        (
            books.request(json!([{ "event_id": events[1], "cost_units": 5 }])),
            422,
            "not_lower",
            "can only lower",
        ),
        (
            books.request(json!([{ "event_id": events[1], "cost_units": -1 }])),
            400,
            "invalid_request",
            "0 or more",
        ),
        (
            books.request(json!([{ "event_id": events[1], "cost_units": 1, "void": true }])),
            400,
            "invalid_request",
            "either",
        ),
        (
            books.request(json!([{ "event_id": events[1] }])),
            400,
            "invalid_request",
            "either",
        ),
        (books.request(json!([good, good])), 400, "invalid_request", "twice"),
        (books.request(json!([])), 400, "invalid_request", "1 to 1000"),
        (
            books.request(json!([{ "event_id": correcting, "void": true }])),
            422,
            "corrects_correction",
            "itself",
        ),
        (
            with("correction_id", voided["correction_id"].clone()),
            409,
            "correction_taken",
            "new `correction_id`",
        ),
        (with("account_id", json!(nobody)), 404, "unknown_account", &nobody),
        (with("reason", json!(" ")), 400, "invalid_request", "reason"),
        (with("by", json!("a\nb")), 400, "invalid_request", "by"),
        (without("reason"), 400, "invalid_request", "reason"),
        (without("by"), 400, "invalid_request", "by"),
        (without("correction_id"), 400, "invalid_request", "correction_id"),
    ] {
        let answer = books.correct(&request).await;
        let problem = answer.json().unwrap();
        assert_eq!(
            (answer.status.as_u16(), &problem["error"]),
            (status, &json!(error)),
            "{request}: {problem}"
        );
        assert!(
            problem["message"].as_str().unwrap().contains(named),
            "{request}: {problem}"
        );
    }
    let rows: i64 = sqlx::query_scalar("select count(*) from corrections")
        .fetch_one(&books.stack.pool)
        .await
        .unwrap();
    assert_eq!(rows, 1, "nothing was corrected in part");
    // Bob's event is unchanged.
    let mut request = books.request(json!([void(&bobs)]));
    request["account_id"] = json!(bob.account_id);
    books.correct(&request).await.ok().unwrap();
    eventually("bob's event is corrected", async || {
        let sums = books.stack.sums(bob.account_id).await.unwrap();
        (sums.units == 0 && sums.events == 2).then_some(())
    })
    .await;
    let (stack_sum, rows): (i64, i64) = sqlx::query_as("select sum(delta_units)::bigint, count(*) from corrections")
        .fetch_one(&books.stack.pool)
        .await
        .unwrap();
    assert_eq!((stack_sum, rows), (-19, 2));
}
