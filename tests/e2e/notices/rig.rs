//! A system whose billing worker compares usage with limits continuously, and helpers for its API.

use std::path::Path;

use devstack::{
    Service, ServiceOptions,
    admin::Customer,
    http::{Http, HttpResponse, request},
    ports,
};
use harness::{Stack, StackOptions, eventually};
use http::Method;
use schema::AccountId;
use serde_json::{Value, json};

use crate::SERVICES;

pub(super) const QUICK: (&str, &str) = ("NOTICE_INTERVAL", "0.2");
pub(super) const HTTP: (&str, &str) = ("NOTICE_ALLOW_HTTP", "true");
pub(super) const PRIVATE: (&str, &str) = ("NOTICE_ALLOW_PRIVATE", "true");

/// A system that allows notice endpoints on this machine, and one of its customers.
pub(super) async fn stack() -> (Stack, Customer) {
    stack_with(&[QUICK, HTTP, PRIVATE]).await
}

pub(super) async fn stack_with(settings: &[(&'static str, &str)]) -> (Stack, Customer) {
    let options = StackOptions {
        billing_env: settings
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()))
            .collect(),
        ..StackOptions::default()
    };
    let stack = Stack::start(SERVICES, options).await.unwrap();
    let ada = stack.admin.customer("ada", "pro").await.unwrap();
    (stack, ada)
}

/// Another billing worker of the same system.
pub(super) async fn another_worker(stack: &Stack, settings: &[(&str, &str)]) -> Service {
    let (admin, public) = (ports::free().unwrap(), ports::free().unwrap());
    let endpoints = &stack.endpoints;
    let dir = stack.data.path().to_owned();
    let mut options = ServiceOptions::new("billing-worker", "another-worker", dir, admin)
        .env("ADMIN_ADDR", format!("127.0.0.1:{admin}"))
        .env("BILLING_LISTEN", format!("127.0.0.1:{public}"))
        .env("NATS_URL", &endpoints.nats_url)
        .env("DATABASE_URL", &endpoints.database_url)
        .env("CLICKHOUSE_URL", &endpoints.clickhouse_url)
        .env("CLICKHOUSE_DATABASE", &endpoints.clickhouse_database);
    options.exe = Some(SERVICES.into());
    for (name, value) in settings {
        options = options.env(*name, *value);
    }
    Service::start(options).await.unwrap()
}

pub(super) async fn call(stack: &Stack, method: Method, path: &str, body: Value) -> HttpResponse {
    let url = format!("{}/admin{path}", stack.billing.admin_url());
    let body = Some(&body).filter(|body| !body.is_null());
    let request = request(method, &url, &stack.admin_token, body).unwrap();
    Http::default().send(request).await.unwrap()
}

/// Calls the API of the account's notice endpoint. The call must succeed.
pub(super) async fn endpoint(stack: &Stack, method: Method, account: AccountId, action: &str, body: Value) -> Value {
    let path = format!("/accounts/{account}/notice-endpoint{action}");
    call(stack, method, &path, body).await.ok().unwrap()
}

/// Sets the account's endpoint.
pub(super) async fn put(stack: &Stack, account: AccountId, url: &str) -> Value {
    endpoint(stack, Method::PUT, account, "", json!({ "url": url })).await
}

/// Sets the account's endpoint for the first time. Returns the secret.
pub(super) async fn set(stack: &Stack, account: AccountId, url: &str) -> String {
    let set = put(stack, account, url).await;
    set["secret"].as_str().unwrap().to_owned()
}

/// Waits until the account's notices are as expected. Returns them.
pub(super) async fn notices(
    stack: &Stack,
    account: AccountId,
    what: &str,
    expected: impl Fn(&[Value]) -> bool,
) -> Vec<Value> {
    eventually(what, async || {
        let path = format!("/accounts/{account}/notices");
        let listed = call(stack, Method::GET, &path, Value::Null).await.ok().unwrap();
        let items = listed["items"].as_array().unwrap().clone();
        expected(&items).then_some(items)
    })
    .await
}

/// Waits for another complete comparison by a worker.
pub(super) async fn compared(service: &Service) {
    const NAME: &str = "billing_notices_comparisons_total";
    let before: u64 = service.metric(NAME).await.unwrap();
    // The running comparison may have begun before the action of the caller.
    eventually("usage is compared", async || {
        (service.metric::<u64>(NAME).await.unwrap() >= before + 2).then_some(())
    })
    .await;
}

pub(super) fn log(dir: &Path, name: &str) -> String {
    std::fs::read_to_string(dir.join(format!("{name}.log"))).unwrap()
}
