//! A period in which the usage prices change: usage is stamped with its segment, and limits are for the whole period.

use devstack::http::{HttpResponse, request};
use harness::{Client, StackOptions, eventually};
use http::Method;
use serde_json::json;
use time::OffsetDateTime;

use super::books::{Books, void};

impl Books {
    /// Another segment begins in the running period, as after an upgrade. Returns the start of the period and of the segment.
    async fn begin_segment(&self) -> (i64, i64) {
        let starts: (OffsetDateTime, OffsetDateTime) = sqlx::query_as(
            "with s as (
                 update subscriptions set segment_start = period_start + interval '1 second', updated_at = now()
                 where is_current returning account_id, period_start, segment_start, period_end)
             insert into billing_periods (account_id, period_start, period_end, quota_start, meter_slot, customer_id,
                 stripe_subscription_id)
             select account_id, segment_start, period_end, period_start, 1, 'cus_1', 'sub_1' from s
             returning quota_start, period_start",
        )
        .fetch_one(&self.stack.pool)
        .await
        .unwrap();
        (starts.0.unix_timestamp(), starts.1.unix_timestamp())
    }

    /// Changes the limit, and waits until every gateway has read the account again.
    async fn limit(&self, units: i64) {
        let (admin, account) = (&self.stack.admin, self.ada.account_id);
        admin.set_limit(account, "api_call", units).await.unwrap();
        for gateway in 0..self.stack.gateways.len() {
            let client = Client::new(self.stack.gateway(gateway), &self.ada);
            eventually("the gateway knows the limit", async || {
                let usage = client.get("/v1/usage").await.ok()?.ok().ok()?;
                let types = usage["usage"].as_array()?;
                let calls = types.iter().find(|one| one["usage_type"] == "api_call")?;
                (calls["limit"] == units).then_some(())
            })
            .await;
        }
    }

    async fn spend_at(&self, gateway: usize, units: i64) -> HttpResponse {
        let client = Client::new(self.stack.gateway(gateway), &self.ada);
        client.spend("api_call", units).await.unwrap()
    }

    async fn spend_keyed(&self, gateway: usize, key: &str, units: i64) {
        let url = format!("{}/v1/usage", self.stack.gateway(gateway));
        let body = json!({ "usage_type": "api_call", "cost_units": units });
        let mut request = request(Method::POST, &url, &self.ada.key, Some(&body)).unwrap();
        request.headers_mut().insert("idempotency-key", key.parse().unwrap());
        self.http.send(request).await.unwrap().ok().unwrap();
    }

    /// Units that the pools have granted, and the start of each.
    async fn pools(&self) -> Vec<(i64, i64)> {
        sqlx::query_as("select extract(epoch from period_start)::bigint, granted_units from quota_pool")
            .fetch_all(&self.stack.pool)
            .await
            .unwrap()
    }

    /// Stored units by segment.
    async fn segments(&self) -> Vec<(i64, i64)> {
        let sums =
            "select toInt64(period_start) as start, sum(cost_units) from usage group by period_start order by start";
        self.stack.clickhouse.query(sums).fetch_all().await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limited_units_are_not_granted_twice_by_an_upgrade_and_return_to_the_pool_of_the_period() {
    let books = Books::open(StackOptions {
        gateways: 2,
        ..StackOptions::default()
    })
    .await;
    books.limit(100).await;
    let before = books.spend("api_call", &[50, 10]).await;
    books.spend_keyed(0, "k", 5).await;
    let (period, segment) = books.begin_segment().await;
    // A gateway that has not learned of it stamps the segment that it knows.
    assert_eq!(books.spend_at(0, 1).await.status, 200);
    books.limit(101).await;
    // This duplicate has the stamp of another segment than its original.
    books.spend_keyed(1, "k", 5).await;
    let after = books.spend_at(1, 30).await.ok().unwrap();
    let after = after["event_id"].as_str().unwrap().parse().unwrap();
    eventually("the units of the duplicate are back", async || {
        let returned: i64 =
            sqlx::query_scalar("select coalesce(sum(returned_units), 0)::bigint from duplicate_returns")
                .fetch_one(&books.stack.pool)
                .await
                .unwrap();
        (returned == 5).then_some(())
    })
    .await;
    eventually("the rest of the limit is admitted", async || {
        (books.spend_at(0, 5).await.status == 200).then_some(())
    })
    .await;
    for gateway in 0..2 {
        assert_eq!(books.spend_at(gateway, 1).await.status, 429);
    }
    assert_eq!(books.pools().await, [(period, 101)]);
    eventually("the usage is stored", async || {
        (books.segments().await == [(period, 66), (segment, 35)]).then_some(())
    })
    .await;

    let made = books
        .correct(&books.request(json!([void(&before[0]), void(&after)])))
        .await;
    assert_eq!(made.ok().unwrap()["delta_units"], -80);
    books.until_published().await;
    eventually("units of both segments are back", async || {
        (books.spend_at(1, 80).await.status == 200).then_some(())
    })
    .await;
    assert_eq!(books.spend_at(0, 1).await.status, 429);
    assert_eq!(books.pools().await, [(period, 101)]);
    // What is granted is what is stored.
    eventually("the corrections are stored", async || {
        (books.segments().await == [(period, 16), (segment, 85)]).then_some(())
    })
    .await;
}
