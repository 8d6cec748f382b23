//! A customer of plans that bill usage, on real servers, with the fake Stripe.

use devstack::{
    admin::Customer,
    http::{Http, HttpResponse, request},
    stripe_double::Control,
};
use harness::{Client, Stack, StackOptions, eventually};
use http::{HeaderValue, Method, header::CONTENT_TYPE};
use serde_json::{Value, json};

use crate::SERVICES;

/// How old a subscription is when the test begins: in its first minute usage is reported ahead.
pub(super) const AGE_S: i64 = 3_600;

/// Each call past the included ones is 1.5 cents, each export 33.3333 cents.
pub(super) const PLANS: &str = r#"
usage_types = ["api_call", "export", "sentiment_analysis"]

[[plan]]
id = "free"
name = "Free"
usage.api_call = { limit = 100 }
usage.export = { limit = 5 }
usage.sentiment_analysis = { limit = 50 }

[[plan]]
id = "team"
name = "Team"
prices = { month = 1900 }
trial_days = 1
usage.api_call = { limit = 40, mode = "overage", unit_price_micros = 15_000 }
usage.export = { mode = "metered", unit_price_micros = 333_333 }
usage.sentiment_analysis = { limit = 60 }

[[plan]]
id = "pro"
name = "Pro"
prices = { month = 2900 }
usage.api_call = { limit = 1_000, mode = "overage", unit_price_micros = 15_000 }
usage.export = { mode = "metered", unit_price_micros = 333_333 }
usage.sentiment_analysis = { limit = 2_000 }

[[plan]]
id = "acme"
name = "Acme"
prices = { month = 9900 }
listed = false
usage.api_call = { limit = 900_000, mode = "overage", unit_price_micros = 10_000 }
usage.export = { limit = 100 }
usage.sentiment_analysis = { limit = 2_000 }
"#;

/// Fields are dropped in order.
pub(super) struct Rig {
    pub stack: Stack,
    pub ada: Customer,
    pub http: Http,
}

impl Rig {
    /// One ingestor, one billing worker; ada is on `plan`, without Stripe.
    pub(super) async fn start(plan: &str, options: StackOptions) -> Self {
        let options = StackOptions {
            stripe: true,
            catalogue: Some(options.catalogue.unwrap_or_else(|| PLANS.to_owned())),
            stripe_behind_s: options.stripe_behind_s.max(AGE_S),
            ..options
        };
        let stack = Stack::start(SERVICES, options).await.unwrap();
        let ada = stack.admin.customer("ada", plan).await.unwrap();
        Self {
            stack,
            ada,
            http: Http::default(),
        }
    }

    /// Subscribes by a checkout, and waits until every gateway knows.
    pub(super) async fn subscribe(&self, plan: &str) {
        self.check_out(plan, json!({ "tier": plan })).await;
    }

    /// Does the same with this body of the checkout.
    pub(super) async fn check_out(&self, plan: &str, body: Value) {
        let opened = self.post("create-checkout-session", body).await;
        let session = opened.ok().unwrap()["session_id"].as_str().unwrap().to_owned();
        self.stripe().complete_checkout(&session).unwrap();
        self.until_on(plan).await;
    }

    pub(super) async fn until_on(&self, plan: &str) {
        for gateway in 0..self.stack.gateways.len() {
            let client = self.client(gateway);
            eventually("the gateway knows the plan", async || {
                let usage = client.get("/v1/usage").await.ok()?.ok().ok()?;
                (usage["plan"] == plan).then_some(())
            })
            .await;
        }
    }

    pub(super) fn stripe(&self) -> Control {
        self.stack.stripe.as_ref().unwrap().control()
    }

    pub(super) fn client(&self, gateway: usize) -> Client {
        Client::new(self.stack.gateway(gateway), &self.ada)
    }

    pub(super) async fn post(&self, path: &str, body: Value) -> HttpResponse {
        let url = format!("{}/billing/{path}", self.stack.billing_url);
        self.http.post(&url, &self.ada.key, &body).await.unwrap()
    }

    pub(super) async fn get(&self, path: &str) -> Value {
        let url = format!("{}/billing/{path}", self.stack.billing_url);
        self.http.get(&url, &self.ada.key).await.unwrap().ok().unwrap()
    }

    /// One usage type of `GET /billing/usage`.
    pub(super) async fn usage(&self, usage_type: &str) -> Value {
        of_type(&self.get("usage").await["usage"], usage_type)
    }

    /// One usage type of `GET /billing/subscription`.
    pub(super) async fn limit(&self, usage_type: &str) -> Value {
        of_type(&self.get("subscription").await["limits"], usage_type)
    }

    /// Spends units at a gateway. Returns the status and the body.
    pub(super) async fn spend(&self, gateway: usize, usage_type: &str, units: i64) -> (u16, Value) {
        let answer = self.client(gateway).spend(usage_type, units).await.unwrap();
        (answer.status.as_u16(), answer.json().unwrap())
    }

    /// Waits until ClickHouse has this many units of the usage type in the running period.
    pub(super) async fn until_stored(&self, usage_type: &str, units: i64) {
        eventually("the usage is stored", async || {
            (self.usage(usage_type).await["current_usage"] == units).then_some(())
        })
        .await;
    }

    /// Ends the trial of a subscription now, as an operator does in Stripe.
    pub(super) async fn end_trial(&self, subscription: &str) {
        let stripe = self.stack.stripe.as_ref().unwrap();
        let url = format!("{}/v1/subscriptions/{subscription}", stripe.url());
        let mut call = request(Method::POST, &url, stripe.api_key(), None).unwrap();
        let form = HeaderValue::from_static("application/x-www-form-urlencoded");
        call.headers_mut().insert(CONTENT_TYPE, form);
        *call.body_mut() = "trial_end=now".into();
        self.http.send(call).await.unwrap().ok().unwrap();
    }

    /// The account's customer in Stripe.
    pub(super) fn stripe_customer(&self) -> String {
        let account = self.ada.account_id.to_string();
        let customers = self.stripe().customers();
        let ours = customers
            .iter()
            .find(|customer| customer["metadata"]["trendit_account"] == account);
        ours.unwrap()["id"].as_str().unwrap().to_owned()
    }

    /// The totals of the account's invoices, oldest first.
    pub(super) fn invoices(&self) -> Vec<i64> {
        let invoices = self.stripe().invoices(&self.stripe_customer());
        invoices
            .iter()
            .map(|invoice| invoice["total"].as_i64().unwrap())
            .collect()
    }

    /// Cancels at once, as soon as all usage is stored, reported and counted.
    pub(super) async fn cancelled(&self) {
        eventually("the subscription is cancelled", async || {
            let answer = self.post("cancel", json!({ "when": "now" })).await;
            assert!([200, 503].contains(&answer.status.as_u16()), "{answer:?}");
            (answer.status == 200).then_some(())
        })
        .await;
    }
}

fn of_type(list: &Value, usage_type: &str) -> Value {
    let mut of_types = list.as_array().unwrap().iter();
    of_types.find(|one| one["usage_type"] == usage_type).unwrap().clone()
}
