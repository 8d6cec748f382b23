//! A customer of a paid plan with overage, on real servers, with the fake Stripe.

use devstack::{
    admin::Customer,
    http::{Http, HttpResponse},
    stripe_double::Control,
};
use harness::{Client, Stack, StackOptions, concurrently, count, eventually};
use serde_json::{Value, json};

use crate::SERVICES;

/// The subscription begins an hour ago: in its first minute usage is reported ahead.
const AGE_S: i64 = 3_600;

/// 1,000 calls are included, each further one is 1.5 cents. Each export is 33.3333 cents.
const PLANS: &str = r#"
usage_types = ["api_call", "export", "sentiment_analysis"]

[[plan]]
id = "free"
name = "Free"
retention_days = 30
features = ["Community support"]
usage.api_call = { limit = 100 }
usage.export = { limit = 5 }
usage.sentiment_analysis = { limit = 50 }

[[plan]]
id = "pro"
name = "Pro"
prices = { month = 2900 }
features = ["Priority email support"]
usage.api_call = { limit = 1_000, mode = "overage", unit_price_micros = 15_000 }
usage.export = { mode = "metered", unit_price_micros = 333_333 }
usage.sentiment_analysis = { limit = 2_000 }
"#;

/// Fields are dropped in order.
pub(super) struct Rig {
    pub stack: Stack,
    pub ada: Customer,
    http: Http,
}

impl Rig {
    /// One gateway, one ingestor, one billing worker; ada has the Pro plan.
    pub(super) async fn start(options: StackOptions) -> Self {
        let options = StackOptions {
            stripe: true,
            catalogue: Some(PLANS.to_owned()),
            stripe_behind_s: AGE_S,
            ..options
        };
        let stack = Stack::start(SERVICES, options).await.unwrap();
        let ada = stack.admin.customer("ada", "free").await.unwrap();
        let rig = Self {
            stack,
            ada,
            http: Http::default(),
        };
        rig.subscribe().await;
        rig
    }

    async fn subscribe(&self) {
        let opened = self.post("create-checkout-session", json!({ "tier": "pro" })).await;
        let session = opened.ok().unwrap()["session_id"].as_str().unwrap().to_owned();
        self.stripe().complete_checkout(&session).unwrap();
        self.stripe().advance_by(AGE_S);
        let gateway = self.client();
        eventually("the gateway knows the plan", async || {
            let usage = gateway.get("/v1/usage").await.ok()?.ok().ok()?;
            (usage["plan"] == "pro").then_some(())
        })
        .await;
    }

    pub(super) fn stripe(&self) -> Control {
        self.stack.stripe.as_ref().unwrap().control()
    }

    pub(super) fn client(&self) -> Client {
        Client::new(self.stack.gateway(0), &self.ada)
    }

    /// 3,000 calls and 30 exports, all acknowledged: $40.00.
    pub(super) async fn use_up(&self) {
        let gateway = self.client();
        let calls = (0..300).map(|_| gateway.spend("api_call", 10));
        let exports = (0..30).map(|_| gateway.spend("export", 1));
        let (calls, exports) = (concurrently(calls).await, concurrently(exports).await);
        assert_eq!((count(&calls, 200), count(&exports, 200)), (300, 30));
    }

    pub(super) async fn post(&self, path: &str, body: Value) -> HttpResponse {
        let url = format!("{}/billing/{path}", self.stack.billing_url);
        self.http.post(&url, &self.ada.key, &body).await.unwrap()
    }

    pub(super) async fn cancel_now(&self) -> HttpResponse {
        self.post("cancel", json!({ "when": "now" })).await
    }

    /// Repeats the cancellation until it is done.
    pub(super) async fn cancelled(&self) {
        eventually("the subscription is cancelled", async || {
            let answer = self.cancel_now().await;
            assert!([200, 503].contains(&answer.status.as_u16()), "{answer:?}");
            (answer.status == 200).then_some(())
        })
        .await;
    }

    fn stripe_customer(&self) -> String {
        let account = self.ada.account_id.to_string();
        let customers = self.stripe().customers();
        let ours = customers
            .iter()
            .find(|customer| customer["metadata"]["trendit_account"] == account);
        ours.unwrap()["id"].as_str().unwrap().to_owned()
    }

    /// Status, number of invoices, and what our API shows.
    pub(super) async fn state(&self) -> Value {
        let customer = self.stripe_customer();
        let subscriptions = self.stripe().subscriptions(&customer);
        let url = format!("{}/billing/subscription", self.stack.billing_url);
        let shown = self.http.get(&url, &self.ada.key).await.unwrap().ok().unwrap();
        json!({ "stripe": subscriptions, "invoices": self.stripe().invoices(&customer).len(), "shown": shown })
    }

    /// Asserts that the last of two invoices is final and has this total.
    pub(super) fn assert_last_invoice(&self, cents: i64) {
        let invoices = self.stripe().invoices(&self.stripe_customer());
        let totals: Vec<_> = invoices
            .iter()
            .map(|invoice| invoice["total"].as_i64().unwrap())
            .collect();
        assert_eq!(totals, [2_900, cents], "{invoices:?}");
        assert_ne!(invoices[1]["status"], "draft");
        assert_eq!(self.stripe().violations(), Vec::<String>::new());
    }

    /// Units of each usage type in ClickHouse.
    pub(super) async fn stored(&self) -> Vec<(String, i64)> {
        let query = "select toString(usage_type), sum(cost_units) from usage_events where account_id = ? \
                     group by usage_type order by usage_type";
        let query = self
            .stack
            .clickhouse
            .query(query)
            .bind(self.ada.account_id.0.to_string());
        query.fetch_all().await.unwrap()
    }
}

/// The refusal of a change whose usage is not stored.
pub(super) fn assert_not_stored(answer: &HttpResponse) {
    assert_eq!(answer.status.as_u16(), 503, "{answer:?}");
    assert_eq!(answer.json().unwrap()["error"], "usage_not_stored");
    let seconds: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!(seconds > 0);
}
