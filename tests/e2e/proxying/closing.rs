//! Clients and upstreams that close their connection early.

use devstack::admin::Customer;
use serde_json::json;

use super::{Upstream, stack};
use crate::smuggling::wire::Wire;

fn head(customer: &Customer, line: &str, length: usize) -> String {
    format!(
        "{line} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n",
        customer.key
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_closes_its_sending_side_gets_its_answer() {
    let upstream = Upstream::start().await.unwrap();
    let stack = stack(&upstream).await.unwrap();
    let customer = stack.admin.customer("ada", "pro").await.unwrap();
    let usage = json!({ "usage_type": "api_call" }).to_string();
    let (gateway, billing) = (stack.gateway(0), stack.billing_url.as_str());
    for (server, line, body) in [
        (gateway, "GET /v1/usage", ""),
        (gateway, "POST /v1/usage", &usage),
        (gateway, "GET /api/echo", ""),
        (billing, "GET /billing/subscription", ""),
    ] {
        for _ in 0..20 {
            let mut wire = Wire::connect(server).await.unwrap();
            let request = head(&customer, line, body.len()) + body;
            wire.send(request.as_bytes()).await;
            wire.close_sending().await.unwrap();
            assert_eq!(wire.answer().await.unwrap(), Some(200), "{line}");
            assert_eq!(wire.answer().await.unwrap(), None, "{line}: the connection ends");
        }
    }
    upstream.reached.forget_permits(usize::MAX);
    // The upstream still works when the gateway sees that nothing follows.
    let mut wire = Wire::connect(gateway).await.unwrap();
    wire.send(head(&customer, "GET /api/held", 0).as_bytes()).await;
    upstream.reached.acquire().await.unwrap().forget();
    wire.close_sending().await.unwrap();
    upstream.release.add_permits(1);
    assert_eq!(wire.answer().await.unwrap(), Some(200));
    stack.assert_stored(customer.account_id, 41, 41).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_request_after_an_answer_that_came_early_is_right() {
    let upstream = Upstream::start().await.unwrap();
    let stack = stack(&upstream).await.unwrap();
    let customer = stack.admin.customer("ada", "pro").await.unwrap();
    // Whatever is left of the body must not be read as a request.
    let line = "GET /api/hidden HTTP/1.1\r\nHost: h\r\n\r\n";
    for length in [line.len(), 64 << 10, 1 << 20, 8 << 20] {
        let body = line.repeat(length / line.len());
        // If the upstream resets its connection, its answer may be lost.
        for (path, answers) in [("early-and-reads", &[413][..]), ("early", &[413, 502])] {
            for _ in 0..5 {
                let mut wire = Wire::connect(stack.gateway(0)).await.unwrap();
                let request = head(&customer, &format!("POST /api/{path}"), body.len()) + &body;
                wire.send(request.as_bytes()).await;
                let answer = wire.answer().await.unwrap().unwrap();
                assert!(answers.contains(&answer), "{path} {length}: {answer}");
                let closes = wire.closes;
                wire.send(head(&customer, "GET /v1/usage", 0).as_bytes()).await;
                let next = wire.answer().await.unwrap();
                match closes {
                    true => assert_eq!(next, None, "{path} {length}"),
                    false => assert_eq!(next, Some(200), "{path} {length}"),
                }
            }
        }
    }
}
