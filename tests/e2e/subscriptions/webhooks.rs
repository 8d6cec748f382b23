use billing_worker::{
    reports::{self, attention},
    webhook::{
        catch_up,
        comparison::{self, Compared},
        inbox, worker,
    },
};
use devstack::http::request;
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderValue, Method};
use serde_json::{Value, json};
use sha2::Sha256;

use super::rig::{Rig, Subscriber};

fn sign(secret: &str, at: i64, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(format!("{at}.").as_bytes());
    mac.update(body);
    let signature = hex::encode(mac.finalize().into_bytes());
    format!("t={at},v1={signature}")
}

async fn send(rig: &Rig, signature: &str, body: &[u8]) -> (u16, Value) {
    let mut sent = request(Method::POST, &rig.webhook_url(), "", None).unwrap();
    sent.headers_mut()
        .insert("stripe-signature", HeaderValue::from_str(signature).unwrap());
    *sent.body_mut() = body.to_vec().into();
    let answer = rig.http.send(sent).await.unwrap();
    (answer.status.as_u16(), answer.json().unwrap_or_default())
}

fn event(id: &str, more: Value) -> Vec<u8> {
    let mut event = json!({ "id": id, "object": "event", "type": "customer.subscription.updated", "created": 1_795_395_600,
                            "livemode": false, "api_version": "2026-09-30.endive",
                            "data": { "object": { "id": "sub_1", "object": "subscription", "customer": "cus_nobody" } } });
    event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    event.to_string().into_bytes()
}

async fn states(rig: &Rig) -> Vec<(String, String)> {
    sqlx::query_as("select id, state from webhook_events order by id")
        .fetch_all(&rig.pool)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_fresh_events_that_stripe_signed_for_us_are_stored() {
    let rig = Rig::start().await;
    let secret = rig.stripe.webhook_secret().to_owned();
    let now = schema::clock::now_s();
    let good = event("evt_good", json!({}));
    let tampered = [good.as_slice(), b" "].concat();
    let live = event("evt_live", json!({ "livemode": true }));
    let foreign = event("evt_foreign", json!({ "account": "acct_other" }));
    for (what, signature, body, error) in [
        ("tampered", sign(&secret, now, &good), &tampered, "webhook_refused"),
        ("replayed", sign(&secret, now - 400, &good), &good, "webhook_refused"),
        (
            "of the future",
            sign(&secret, now + 400, &good),
            &good,
            "webhook_refused",
        ),
        ("by another", sign("whsec_other", now, &good), &good, "webhook_refused"),
        ("not signed", "v1".to_owned(), &good, "webhook_refused"),
        ("live", sign(&secret, now, &live), &live, "webhook_refused"),
        (
            "of another account",
            sign(&secret, now, &foreign),
            &foreign,
            "webhook_refused",
        ),
    ] {
        let (status, problem) = send(&rig, &signature, body).await;
        assert_eq!((status, problem["error"].as_str()), (400, Some(error)), "{what}");
    }
    let large = vec![b'x'; 2 * 1024 * 1024];
    assert_eq!(send(&rig, &sign(&secret, now, &large), &large).await.0, 413);
    assert_eq!(states(&rig).await, []);

    // Everything that Stripe signed is kept.
    let stored = (200, json!({ "status": "success" }));
    for odd in [&b"\xff\xfe not UTF-8"[..], b"{}", b"[1, 2"] {
        assert_eq!(send(&rig, &sign(&secret, now, odd), odd).await, stored);
    }
    let unknown = event("evt_unknown", json!({ "type": "charge.refunded" }));
    for body in [&good, &good, &unknown] {
        assert_eq!(send(&rig, &sign(&secret, now, body), body).await, stored);
    }
    rig.work().await;
    let states = states(&rig).await;
    assert_eq!(
        states[0],
        ("evt_good".to_owned(), "ignored".to_owned()),
        "its customer is unknown here"
    );
    assert_eq!(states[1], ("evt_unknown".to_owned(), "ignored".to_owned()));
    assert_eq!(states.iter().filter(|(_, state)| state == "unreadable").count(), 3);
    let admin = &rig.billing.admin;
    let attention = attention::find(&admin.db, &admin.catalogue).await.unwrap();
    let failing = attention.failing_events.iter();
    assert_eq!(failing.filter(|event| event.state == "unreadable").count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_secret_loses_no_event() {
    let rig = Rig::start().await;
    let endpoint = rig.control().add_webhook(&rig.webhook_url()).unwrap();
    let ada = rig.subscriber("ada").await;
    // Stripe signs with both secrets for a while. This service knows only the old one.
    rig.control().roll_webhook_secret(&endpoint, 3_600).unwrap();
    rig.check_out(&ada, "pro").await;
    rig.settle().await;
    assert_eq!(rig.subscription(&ada).await["tier"], "pro");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_of_an_older_version_has_the_same_effect() {
    let rig = Rig::start().await;
    rig.control()
        .add_webhook_of_version(&rig.webhook_url(), "2024-06-20")
        .unwrap();
    let ada = rig.subscribed("ada", "pro").await;
    assert_eq!(rig.subscription(&ada).await["tier"], "pro");
    rig.control()
        .emit_meter_error("mtr_1", "meter_event_no_customer_defined", "identifier");
    rig.control()
        .emit_unknown("some.thing", json!({ "id": "x_1", "object": "thing" }));
    rig.settle().await;
    let left: i64 = sqlx::query_scalar("select count(*) from webhook_events where state not in ('done', 'ignored')")
        .fetch_one(&rig.pool)
        .await
        .unwrap();
    assert_eq!(left, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_were_never_delivered_are_fetched() {
    let rig = Rig::start().await;
    // Nothing listens at this address.
    rig.control().add_webhook("http://127.0.0.1:9/nobody").unwrap();
    let ada: Subscriber = rig.subscriber("ada").await;
    rig.check_out(&ada, "pro").await;
    assert_eq!(rig.subscription(&ada).await["tier"], "free");
    let found = catch_up::step(&rig.billing).await.unwrap();
    assert!(found >= 3, "{found}");
    rig.work().await;
    assert_eq!(rig.subscription(&ada).await["tier"], "pro");
    assert_eq!(catch_up::step(&rig.billing).await.unwrap(), 0, "each once");
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn done_events_are_deleted_once_stripe_no_longer_has_them() {
    let rig = Rig::start().await;
    let secret = rig.stripe.webhook_secret().to_owned();
    let now = schema::clock::now_s();
    for id in ["evt_new", "evt_old", "evt_parked"] {
        let body = event(id, json!({}));
        assert_eq!(send(&rig, &sign(&secret, now, &body), &body).await.0, 200);
    }
    rig.work().await;
    sqlx::query(
        "update webhook_events set done_at = now() - interval '41 days',
             state = case id when 'evt_parked' then 'parked' else state end
         where id <> 'evt_new'",
    )
    .execute(&rig.pool)
    .await
    .unwrap();
    assert_eq!(inbox::forget(&rig.pool).await.unwrap(), 1);
    let left: Vec<String> = states(&rig).await.into_iter().map(|(id, _)| id).collect();
    assert_eq!(left, ["evt_new", "evt_parked"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_a_busy_account_does_not_count_as_tried() {
    let rig = Rig::start().await;
    rig.listen();
    let ada = rig.subscriber("ada").await;
    rig.check_out(&ada, "pro").await;
    rig.control().settle_webhooks(harness::PATIENCE).await.unwrap();
    let lease = rig.billing.lease(ada.account).await.unwrap();
    worker::step(&rig.billing, &rig.metrics).await.unwrap();
    let attempts: Vec<i32> =
        sqlx::query_scalar("select attempts from webhook_events where state = 'received' and customer_id is not null")
            .fetch_all(&rig.pool)
            .await
            .unwrap();
    assert!(
        !attempts.is_empty() && attempts.iter().all(|attempts| *attempts == 0),
        "{attempts:?}"
    );
    lease.release().await;
    rig.work().await;
    assert_eq!(rig.subscription(&ada).await["tier"], "pro");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_another_stripe_account_or_mode_makes_no_account_free() {
    let rig = Rig::start().await;
    rig.listen();
    let ada = rig.subscribed("ada", "pro").await;
    let customer = rig.customers(&ada).remove(0);
    let compared = |accounts, failed| Compared {
        accounts,
        mended: 0,
        failed,
        reversals: 0,
    };
    for (change, expected) in [
        // For the key of another account, this customer does not exist.
        (
            "update stripe_customers set customer_id = 'cus_elsewhere'",
            compared(1, 1),
        ),
        ("update stripe_customers set livemode = true", compared(0, 0)),
    ] {
        sqlx::query(change).execute(&rig.pool).await.unwrap();
        assert_eq!(comparison::run(&rig.billing).await.unwrap(), expected, "{change}");
        assert_eq!(rig.subscription(&ada).await["tier"], "pro", "{change}");
        sqlx::query("update stripe_customers set customer_id = $1")
            .bind(&customer)
            .execute(&rig.pool)
            .await
            .unwrap();
    }
    // A customer of the other mode is neither reported nor changed.
    let refused = rig.post(&ada, "upgrade", json!({ "tier": "enterprise" })).await;
    assert_eq!(refused.json().unwrap()["error"], "not_subscribed");
    let refused = rig
        .post(&ada, "create-checkout-session", json!({ "tier": "pro" }))
        .await;
    assert_eq!(refused.json().unwrap()["error"], "wrong_mode");
    rig.use_units(&ada, "api_call", 5).await;
    let step = reports::step(rig.billing.reporter().unwrap(), rig.control().now())
        .await
        .unwrap();
    assert_eq!(step.written, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_database_the_answer_makes_stripe_send_the_event_again() {
    let rig = Rig::start().await;
    let secret = rig.stripe.webhook_secret().to_owned();
    let body = event("evt_1", json!({}));
    rig.pool.close().await;
    let (status, problem) = send(&rig, &sign(&secret, schema::clock::now_s(), &body), &body).await;
    assert_eq!((status, problem["error"].as_str()), (503, Some("database_unavailable")));
}
