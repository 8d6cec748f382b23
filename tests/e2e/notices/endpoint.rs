//! Which URLs may receive notices, which secret signs them, and when an endpoint is disabled.

use harness::Client;
use http::Method;
use serde_json::{Value, json};
use tokio::{io::AsyncReadExt, net::TcpListener};

use super::{
    receiver::Receiver,
    rig::{HTTP, PRIVATE, QUICK, call, endpoint, log, notices, put, set, stack, stack_with},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_private_address_is_refused_even_behind_a_name() {
    let (stack, ada) = stack_with(&[QUICK, HTTP]).await;
    let receiver = Receiver::start(&[]).await;
    let path = format!("/accounts/{}/notice-endpoint", ada.account_id);
    let refused = call(&stack, Method::PUT, &path, json!({ "url": receiver.url() })).await;
    assert_eq!(refused.status, 400);
    assert!(
        refused.json().unwrap()["message"]
            .as_str()
            .unwrap()
            .contains("127.0.0.1 is loopback")
    );

    set(&stack, ada.account_id, "https://example.com/usage").await;
    // The address of a name can become private after the name was set. `localhost` stands for such a name.
    let by_name = receiver.url().replace("127.0.0.1", "localhost");
    let renamed = "update notice_endpoints set url = $1 where account_id = $2";
    sqlx::query(renamed)
        .bind(by_name)
        .bind(ada.account_id.0)
        .execute(&stack.pool)
        .await
        .unwrap();
    endpoint(&stack, Method::POST, ada.account_id, "/test", Value::Null).await;
    let failed = notices(&stack, ada.account_id, "the attempt is refused", |listed| {
        listed[0]["attempts"] == 1
    })
    .await;
    let error = failed[0]["last_error"].as_str().unwrap();
    assert!(
        error.contains("the host is the machine of the service itself"),
        "{error}"
    );
    assert!(receiver.received().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_is_refused_unless_allowed_and_https_speaks_tls() {
    let (stack, ada) = stack_with(&[PRIVATE]).await;
    let path = format!("/accounts/{}/notice-endpoint", ada.account_id);
    let refused = call(&stack, Method::PUT, &path, json!({ "url": "http://example.com/" })).await;
    assert_eq!(refused.status, 400);
    assert!(
        refused.json().unwrap()["message"]
            .as_str()
            .unwrap()
            .contains("https://")
    );

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
    set(&stack, ada.account_id, &url).await;
    endpoint(&stack, Method::POST, ada.account_id, "/test", Value::Null).await;
    let (mut connection, _) = listener.accept().await.unwrap();
    // RFC 8446, 5.1: a handshake record.
    assert_eq!(connection.read_u8().await.unwrap(), 22);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_not_followed() {
    let (stack, ada) = stack().await;
    let receiver = Receiver::start(&[302]).await;
    set(&stack, ada.account_id, &receiver.url()).await;
    endpoint(&stack, Method::POST, ada.account_id, "/test", Value::Null).await;
    let failed = notices(&stack, ada.account_id, "the attempt fails", |listed| {
        listed[0]["attempts"] == 1
    })
    .await;
    assert_eq!(
        failed[0]["last_error"],
        "answered 302 Found: redirects are not followed"
    );
    // The second attempt goes to the URL that was set.
    receiver.nth(2).await;
    assert!(receiver.received().iter().all(|attempt| attempt.path == "/usage"));
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_overlap_in_a_rotation_and_are_shown_once() {
    let (stack, ada) = stack().await;
    let receiver = Receiver::start(&[]).await;
    let first = set(&stack, ada.account_id, &receiver.url()).await;
    let test = async || endpoint(&stack, Method::POST, ada.account_id, "/test", Value::Null).await;

    let rotated = endpoint(&stack, Method::POST, ada.account_id, "/rotate", Value::Null).await;
    let second = rotated["secret"].as_str().unwrap();
    test().await;
    let notice = receiver.nth(1).await;
    assert_eq!(
        (notice.signatures(&first), notice.signatures(second)),
        ((2, true), (2, true))
    );

    let rotated = endpoint(
        &stack,
        Method::POST,
        ada.account_id,
        "/rotate",
        json!({ "overlap_hours": 0 }),
    )
    .await;
    let third = rotated["secret"].as_str().unwrap();
    test().await;
    let notice = receiver.nth(2).await;
    // The overlap of the first secret continues.
    assert_eq!(
        (notice.signatures(&first), notice.signatures(third)),
        ((2, true), (2, true))
    );
    assert!(!notice.signatures(second).1);

    let again = put(&stack, ada.account_id, &receiver.url()).await;
    let shown = endpoint(&stack, Method::GET, ada.account_id, "", Value::Null).await;
    for answer in [&again, &shown] {
        assert!(!answer.to_string().contains("whsec_"), "{answer}");
        assert_eq!(answer["secrets"].as_array().unwrap().len(), 2);
    }
    let log = log(stack.data.path(), "billing-worker-1");
    assert!(log.contains("delivered a notice") && log.contains(&ada.account_id.to_string()));
    let raw = first.strip_prefix("whsec_").unwrap();
    assert!(!log.contains("whsec_") && !log.contains(raw) && !log.contains(&receiver.url()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_gone_is_disabled_until_it_is_set_again() {
    let (stack, ada) = stack().await;
    let receiver = Receiver::start(&[410]).await;
    set(&stack, ada.account_id, &receiver.url()).await;
    let path = format!("/accounts/{}/notice-endpoint", ada.account_id);
    let test = endpoint(&stack, Method::POST, ada.account_id, "/test", Value::Null).await;
    notices(&stack, ada.account_id, "the notice is given up", |listed| {
        listed[0]["state"] == "failed"
    })
    .await;
    let shown = endpoint(&stack, Method::GET, ada.account_id, "", Value::Null).await;
    assert_eq!(
        (&shown["state"], &shown["disabled_reason"]),
        (&json!("disabled"), &json!("it answered 410 Gone"))
    );
    let replay = format!("/notices/{}/replay", test["id"].as_str().unwrap());
    for refused in [format!("{path}/test"), replay.clone()] {
        let answer = call(&stack, Method::POST, &refused, Value::Null).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.json().unwrap()["error"]),
            (409, &json!("notice_endpoint_disabled"))
        );
    }
    put(&stack, ada.account_id, &receiver.url()).await;
    call(&stack, Method::POST, &replay, Value::Null).await.ok().unwrap();
    receiver.nth(2).await;

    endpoint(&stack, Method::DELETE, ada.account_id, "", Value::Null).await;
    for method in [Method::GET, Method::DELETE] {
        let answer = call(&stack, method, &path, Value::Null).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.json().unwrap()["error"]),
            (404, &json!("no_notice_endpoint"))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notice_that_is_given_up_does_not_count_against_the_next_one() {
    let (stack, ada) = stack().await;
    let receiver = Receiver::start(&[500; 10]).await;
    set(&stack, ada.account_id, &receiver.url()).await;
    endpoint(&stack, Method::POST, ada.account_id, "/test", Value::Null).await;
    notices(&stack, ada.account_id, "the delivery was tried", |listed| {
        listed[0]["attempts"].as_i64() >= Some(1)
    })
    .await;
    let failing = endpoint(&stack, Method::GET, ada.account_id, "", Value::Null).await;
    assert!(failing["failing_since"].is_string());
    let last = "update notices set attempts = 9, next_attempt_at = now() where account_id = $1";
    sqlx::query(last)
        .bind(ada.account_id.0)
        .execute(&stack.pool)
        .await
        .unwrap();
    notices(&stack, ada.account_id, "the notice is given up", |listed| {
        listed[0]["state"] == "failed"
    })
    .await;
    let shown = endpoint(&stack, Method::GET, ada.account_id, "", Value::Null).await;
    assert_eq!(
        (&shown["state"], &shown["failing_since"]),
        (&json!("active"), &Value::Null)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_failed_for_five_days_is_disabled_and_says_so() {
    let (stack, ada) = stack().await;
    let receiver = Receiver::start(&[500]).await;
    set(&stack, ada.account_id, &receiver.url()).await;
    let failing = "update notice_endpoints set failing_since = now() - interval '5 days' where account_id = $1";
    sqlx::query(failing)
        .bind(ada.account_id.0)
        .execute(&stack.pool)
        .await
        .unwrap();
    endpoint(&stack, Method::POST, ada.account_id, "/test", Value::Null).await;
    let failed = notices(&stack, ada.account_id, "the notice is given up", |listed| {
        listed[0]["state"] == "failed"
    })
    .await;
    assert_eq!(
        failed[0]["last_error"],
        "answered 500 Internal Server Error: out of paper"
    );
    let shown = endpoint(&stack, Method::GET, ada.account_id, "", Value::Null).await;
    assert_eq!(shown["disabled_reason"], "every attempt of the last 5 days failed");
    // Thresholds that are reached in this time are stored, and sent when an operator asks for it.
    let client = Client::new(stack.gateway(0), &ada);
    client.spend("export", 80).await.unwrap().ok().unwrap();
    let listed = notices(&stack, ada.account_id, "the threshold is noticed", |listed| {
        listed.len() == 2
    })
    .await;
    assert_eq!(listed[1]["state"], "unaddressed");
    put(&stack, ada.account_id, &receiver.url()).await;
    let replay = format!("/notices/{}/replay", listed[1]["id"].as_str().unwrap());
    call(&stack, Method::POST, &replay, Value::Null).await.ok().unwrap();
    assert_eq!(receiver.nth(2).await.json()["data"]["current_usage"], 80);
}
