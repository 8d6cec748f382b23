//! A system with one customer, corrections of its usage, and the final check of all sums.

use std::{sync::Arc, time::Duration};

use billing_worker::administration::{Administration, By, announce::Announcer};
use devstack::{
    admin::Customer,
    http::{Http, HttpResponse},
};
use harness::{Client, Stack, StackOptions, eventually};
use schema::{Catalogue, EventId, LaneRecord, lane_record::Kind};
use serde_json::{Value, json};
use service::nats::NatsSettings;
use uuid::Uuid;

use crate::SERVICES;

/// A system with one customer.
pub(super) struct Books {
    pub stack: Stack,
    pub ada: Customer,
    pub client: Client,
    pub http: Http,
}

impl Books {
    pub(super) async fn open(options: StackOptions) -> Self {
        let stack = Stack::start(SERVICES, options).await.unwrap();
        let ada = stack.admin.customer("ada", "pro").await.unwrap();
        Self {
            client: Client::new(stack.gateway(0), &ada),
            http: Http::default(),
            stack,
            ada,
        }
    }

    /// Records events with these costs and waits until they are stored.
    pub(super) async fn spend(&self, usage_type: &str, costs: &[i64]) -> Vec<EventId> {
        let mut events = Vec::new();
        for cost in costs {
            let answer = self.client.spend(usage_type, *cost).await.unwrap().ok().unwrap();
            events.push(answer["event_id"].as_str().unwrap().parse().unwrap());
        }
        eventually("the spent units are stored", async || {
            let stored = "select event_id from usage_events where account_id = ? and usage_type = ?";
            let query = self.stack.clickhouse.query(&format!("select count() from ({stored})"));
            let rows = query
                .bind(self.ada.account_id.0.to_string())
                .bind(usage_type)
                .fetch_one::<u64>();
            (rows.await.ok()? >= costs.len() as u64).then_some(())
        })
        .await;
        events
    }

    pub(super) fn request(&self, events: Value) -> Value {
        json!({
            "correction_id": Uuid::now_v7(), "account_id": self.ada.account_id, "reason": "an outage of ours", "by": "eve",
            "events": events,
        })
    }

    pub(super) async fn correct(&self, request: &Value) -> HttpResponse {
        let url = format!("{}/admin/corrections", self.stack.billing.admin_url());
        self.http.post(&url, &self.stack.admin_token, request).await.unwrap()
    }

    pub(super) async fn read(&self, path: &str) -> Value {
        let url = format!("{}/admin/{path}", self.stack.billing.admin_url());
        self.http
            .get(&url, &self.stack.admin_token)
            .await
            .unwrap()
            .ok()
            .unwrap()
    }

    pub(super) async fn until_published(&self) {
        eventually("every correction is published", async || {
            let waiting: i64 = sqlx::query_scalar("select count(*) from corrections where published_at is null")
                .fetch_one(&self.stack.pool)
                .await
                .unwrap();
            (waiting == 0).then_some(())
        })
        .await;
    }

    /// The administration of a worker in this process.
    pub(super) fn admin(&self) -> Administration {
        Administration {
            db: self.stack.pool.clone(),
            catalogue: Arc::new(Catalogue::built_in()),
            announcer: Announcer::of_command(&nats_settings(&self.stack)),
            clickhouse: self.stack.clickhouse.clone(),
            corrections_wait: Arc::default(),
            by: By::Command,
            name: Some("a test".into()),
        }
    }

    /// The final check: each correction is one row of ClickHouse that copies its original. After the gateways have returned
    /// their units, every pool has granted exactly the sum in ClickHouse.
    pub(super) async fn close(mut self, units: i64) {
        self.until_published().await;
        self.stack.billing.stop(Duration::from_secs(40)).await.unwrap();
        for gateway in &mut self.stack.gateways {
            assert!(gateway.service.stop(Duration::from_secs(40)).await.unwrap().success());
        }
        let account = self.ada.account_id.0.to_string();
        let in_ledger: Vec<(String, String, i64)> =
            sqlx::query_as("select id::text, event_id::text, delta_units from corrections order by id")
                .fetch_all(&self.stack.pool)
                .await
                .unwrap();
        let corrections = "select toString(c.event_id), toString(c.corrects), c.cost_units from usage_events c
             join (select * from usage_events) o on o.event_id = c.corrects
             where (c.account_id, c.usage_type, c.period_start, c.ts, c.endpoint, c.method, c.ip_address, c.subscription_id)
                 = (o.account_id, o.usage_type, o.period_start, o.ts, o.endpoint, o.method, o.ip_address, o.subscription_id)
                 and toString(c.lease_id) = '00000000-0000-0000-0000-000000000000'
             order by toString(c.event_id)";
        // No process writes any more, so this result is final.
        let in_stream = events_in_stream(&self.stack).await;
        eventually("every event of the stream is in ClickHouse", async || {
            let rows = self
                .stack
                .clickhouse
                .query("select count() from usage_events")
                .fetch_one::<u64>();
            (rows.await.ok()? >= in_stream).then_some(())
        })
        .await;
        let stored: Vec<(String, String, i64)> =
            self.stack.clickhouse.query_raw(corrections).fetch_all().await.unwrap();
        assert_eq!(stored, in_ledger);
        let total = "select sum(cost_units) from usage_events where account_id = ?";
        let total: i64 = self
            .stack
            .clickhouse
            .query(total)
            .bind(&account)
            .fetch_one()
            .await
            .unwrap();
        assert_eq!(total, units);
        let pools: Vec<(String, i64)> =
            sqlx::query_as("select usage_type, granted_units from quota_pool order by usage_type")
                .fetch_all(&self.stack.pool)
                .await
                .unwrap();
        let sums =
            "select toString(usage_type), sum(cost_units) from usage_events group by usage_type order by usage_type";
        let sums: Vec<(String, i64)> = self.stack.clickhouse.query(sums).fetch_all().await.unwrap();
        assert_eq!(pools, sums);
    }
}

/// Events in all lanes.
pub(super) async fn events_in_stream(stack: &Stack) -> u64 {
    let client = async_nats::connect(stack.nats.url()).await.unwrap();
    let stream = lane::stream::look(&client).await.unwrap();
    let mut events = 0;
    for sequence in 1..=stream.last_sequence {
        let message = stream.stream.get_raw_message(sequence).await.unwrap();
        if let Kind::Batch { events: batch, .. } = LaneRecord::decode(&message.payload).unwrap().kind {
            events += batch.len() as u64;
        }
    }
    events
}

pub(super) fn nats_settings(stack: &Stack) -> NatsSettings {
    NatsSettings {
        nats_url: stack.nats.url().to_owned(),
        nats_user: None,
        nats_password: None,
    }
}

pub(super) fn void(event: &EventId) -> Value {
    json!({ "event_id": event, "void": true })
}
