//! A delivery is retried if it fails or its worker dies. A delivery that never ends is cut off.

use http::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::{
    receiver::Receiver,
    rig::{call, compared, endpoint, notices, set, stack},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_delivery_is_retried_and_a_replay_has_the_same_id() {
    let (stack, ada) = stack().await;
    let receiver = Receiver::start(&[500, 200]).await;
    let secret = set(&stack, ada.account_id, &receiver.url()).await;
    let test = endpoint(&stack, Method::POST, ada.account_id, "/test", Value::Null).await;
    assert_eq!(
        (&test["type"], &test["state"]),
        (&json!("usage.test"), &json!("pending"))
    );
    let failed = notices(&stack, ada.account_id, "the first attempt fails", |listed| {
        listed[0]["attempts"] == 1
    })
    .await;
    assert_eq!(failed[0]["state"], "pending");
    assert_eq!(
        failed[0]["last_error"],
        "answered 500 Internal Server Error: out of paper"
    );
    let delivered = notices(&stack, ada.account_id, "the second one is delivered", |listed| {
        listed[0]["state"] == "delivered"
    })
    .await;
    assert_eq!(
        (&delivered[0]["attempts"], &delivered[0]["last_error"]),
        (&json!(2), &Value::Null)
    );

    let id = test["id"].as_str().unwrap();
    let replay = format!("/notices/{id}/replay");
    assert_eq!(call(&stack, Method::POST, &replay, Value::Null).await.status, 202);
    receiver.nth(3).await;
    let received = receiver.received();
    for attempt in &received {
        assert_eq!((attempt.id(), &attempt.body), (id, &received[0].body));
        assert!(attempt.signatures(&secret).1);
    }
    assert_eq!(received.len(), 3);
    let unknown = format!("/notices/{}/replay", uuid::Uuid::new_v4());
    assert_eq!(call(&stack, Method::POST, &unknown, Value::Null).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_of_a_dead_worker_is_taken_over_only_after_its_claim_expires() {
    let (stack, ada) = stack().await;
    let receiver = Receiver::start(&[]).await;
    set(&stack, ada.account_id, &receiver.url()).await;
    let lease = async |seconds: f64| {
        let lease = "update notice_endpoints
                     set lease_id = gen_random_uuid(), leased_until = now() + $1 * interval '1 second'";
        sqlx::query(lease).bind(seconds).execute(&stack.pool).await.unwrap();
    };
    lease(3_600.0).await;
    endpoint(&stack, Method::POST, ada.account_id, "/test", Value::Null).await;
    // At least two seconds: a worker looks for due notices every second.
    for _ in 0..6 {
        compared(&stack.billing).await;
    }
    assert!(receiver.received().is_empty());
    lease(0.0).await;
    receiver.nth(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_response_is_not_read_and_a_missing_one_times_out_after_15_s() {
    let (stack, ada) = stack().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    set(&stack, ada.account_id, &url).await;
    endpoint(&stack, Method::POST, ada.account_id, "/test", Value::Null).await;
    let (mut endless, _) = listener.accept().await.unwrap();
    // A server must not respond before the request.
    let mut asked = Vec::new();
    while !asked.ends_with(b"}}") {
        assert_ne!(endless.read_buf(&mut asked).await.unwrap(), 0, "the worker hung up");
    }
    let head = "HTTP/1.1 500 Internal Server Error\r\n\r\n";
    endless.write_all(head.as_bytes()).await.unwrap();
    // Until the other side has closed the connection.
    while endless.write_all(&[b'a'; 4_096]).await.is_ok() {}
    let failed = notices(&stack, ada.account_id, "the first attempt fails", |listed| {
        listed[0]["attempts"] == 1
    })
    .await;
    let expected = format!("answered 500 Internal Server Error: {}", "a".repeat(200));
    assert_eq!(failed[0]["last_error"], expected);

    let _silent = listener.accept().await.unwrap();
    let failed = notices(&stack, ada.account_id, "the second attempt fails", |listed| {
        listed[0]["attempts"] == 2
    })
    .await;
    assert_eq!(failed[0]["last_error"], "no answer within 15s");
}
