//! A system and a client that sends `Idempotency-Key`s.

use std::time::Duration;

use devstack::{
    admin::Customer,
    http::{Http, HttpResponse, request},
};
use harness::{Stack, StackOptions, eventually};
use http::Method;
use serde_json::{Value, json};

use crate::SERVICES;

/// A system, and a client that sends keys.
pub(super) struct Keys {
    pub stack: Stack,
    pub http: Http,
    pub ada: Customer,
}

impl Keys {
    pub(super) async fn start(options: StackOptions) -> Self {
        let stack = Stack::start(SERVICES, options).await.unwrap();
        let ada = stack.admin.customer("ada", "pro").await.unwrap();
        let http = Http::default();
        Self { stack, http, ada }
    }

    pub(super) async fn of_gateways(gateways: usize) -> Self {
        Self::start(StackOptions {
            gateways,
            ..StackOptions::default()
        })
        .await
    }

    pub(super) async fn with(settings: &[(&'static str, &str)]) -> Self {
        let settings = settings.iter().map(|(name, value)| (*name, (*value).to_owned()));
        Self::start(StackOptions {
            gateway_env: settings.collect(),
            ..StackOptions::default()
        })
        .await
    }

    pub(super) async fn post(&self, gateway: usize, path: &str, key: &str, body: &Value) -> HttpResponse {
        let url = format!("{}{path}", self.stack.gateway(gateway));
        let mut request = request(Method::POST, &url, &self.ada.key, Some(body)).unwrap();
        request.headers_mut().insert("idempotency-key", key.parse().unwrap());
        self.http.send(request).await.unwrap()
    }

    pub(super) async fn spend(&self, gateway: usize, key: &str, units: i64) -> HttpResponse {
        self.post(gateway, "/v1/usage", key, &usage(units)).await
    }

    pub(super) async fn assert_stored(&self, events: u64, units: i64) {
        self.stack.assert_stored(self.ada.account_id, events, units).await;
    }

    /// Stops the gateways and waits until the account has this many dropped events, counted once per position. Their
    /// units are returned to the pool, so the pool has granted exactly the stored units.
    pub(super) async fn assert_returned(&mut self, duplicates: u64, units: i64) {
        self.stop_gateways().await;
        eventually(&format!("{duplicates} duplicates are stored separately"), async || {
            (self.duplicates().await? == duplicates).then_some(())
        })
        .await;
        self.assert_all_returned(units).await;
        assert_eq!(self.returned().await, Some(duplicates));
    }

    /// Waits until the pool has granted exactly the stored units and the units of every dropped event are returned.
    pub(super) async fn assert_all_returned(&self, units: i64) {
        eventually(&format!("{units} units are granted"), async || {
            let granted: i64 = sqlx::query_scalar("select sum(granted_units)::bigint from quota_pool")
                .fetch_one(&self.stack.pool)
                .await
                .ok()?;
            assert!(
                granted >= units,
                "{granted} granted: more units were returned than were spent twice"
            );
            (granted == units && self.returned().await? == self.duplicates().await?).then_some(())
        })
        .await;
    }

    pub(super) async fn stop_gateways(&mut self) {
        for gateway in &mut self.stack.gateways {
            let stopped = gateway.service.stop(Duration::from_secs(40)).await.unwrap();
            assert!(stopped.success());
        }
    }

    /// Dropped events with returned units.
    pub(super) async fn returned(&self) -> Option<u64> {
        let count = "select count(*) from duplicate_returns where returned_units = cost_units";
        let count: i64 = sqlx::query_scalar(count).fetch_one(&self.stack.pool).await.ok()?;
        Some(count as u64)
    }

    pub(super) async fn duplicates(&self) -> Option<u64> {
        let query = "select uniqExact(generation, shard, stream_seq, idx) from usage_duplicates where account_id = ?";
        let query = self.stack.clickhouse.query(query);
        query.bind(self.ada.account_id.to_string()).fetch_one().await.ok()
    }

    pub(super) async fn metric(&self, name: &str) -> u64 {
        self.stack.gateways[0].service.metric(name).await.unwrap()
    }
}

pub(super) fn usage(units: i64) -> Value {
    json!({ "usage_type": "api_call", "cost_units": units })
}

pub(super) fn replayed(answer: &HttpResponse) -> bool {
    answer.header("idempotent-replayed") == Some("true")
}

pub(super) fn error(answer: &HttpResponse) -> (u16, String) {
    let named = answer.json().unwrap()["error"].as_str().unwrap_or_default().to_owned();
    (answer.status.as_u16(), named)
}

pub(super) fn event_of(answer: &HttpResponse) -> String {
    answer.ok().unwrap()["event_id"].as_str().unwrap().to_owned()
}
