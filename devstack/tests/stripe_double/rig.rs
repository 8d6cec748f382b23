//! A double, a client that speaks its form encoding, and a small catalogue.

use devstack::http::{Answer, Http};
use devstack::stripe_double::Control;
use devstack::{StripeDouble, StripeDoubleOptions};
use http::{Method, Request, header};
use http_body_util::Full;
use serde_json::Value;

pub struct Rig {
    pub stripe: StripeDouble,
    pub control: Control,
    pub client: Client,
}

#[derive(Clone)]
pub struct Client {
    http: Http,
    url: String,
    key: String,
}

/// Pro: $29 a month; its calls: 1,000 included, then a cent each.
pub struct Catalogue {
    pub pro: String,
    pub enterprise: String,
    pub calls: String,
    pub meter: String,
}

impl Rig {
    pub async fn start(options: StripeDoubleOptions) -> Self {
        let stripe = StripeDouble::start(options).await.unwrap();
        let client = Client {
            http: Http::default(),
            url: stripe.url().to_owned(),
            key: stripe.api_key().to_owned(),
        };
        let control = stripe.control();
        Self {
            stripe,
            control,
            client,
        }
    }

    pub async fn catalogue(&self) -> Catalogue {
        let meter = "display_name=Calls&event_name=api_call&default_aggregation[formula]=sum";
        let meter = self.client.id("/v1/billing/meters", meter).await;
        let product = self.client.id("/v1/products", "name=Plan").await;
        let price = |rest: &str| format!("product={product}&currency=usd&recurring[interval]=month&{rest}");
        let pro = self.client.id("/v1/prices", &price("unit_amount=2900")).await;
        let enterprise = self.client.id("/v1/prices", &price("unit_amount=29900")).await;
        let tiers = "tiers[0][up_to]=1000&tiers[0][unit_amount]=0&tiers[1][up_to]=inf&tiers[1][unit_amount]=1";
        let calls = format!(
            "recurring[usage_type]=metered&recurring[meter]={meter}&billing_scheme=tiered&tiers_mode=graduated&{tiers}"
        );
        let calls = self.client.id("/v1/prices", &price(&calls)).await;
        Catalogue {
            pro,
            enterprise,
            calls,
            meter,
        }
    }

    /// A customer with a card that works.
    pub async fn customer(&self) -> String {
        self.client
            .id("/v1/customers", "email=a%40example.com&payment_method=pm_card_visa")
            .await
    }

    /// The types of the events so far, oldest first, from the n-th on.
    pub fn kinds(&self, from: usize) -> Vec<String> {
        self.control
            .events()
            .into_iter()
            .skip(from)
            .map(|event| event.kind)
            .collect()
    }
}

impl Client {
    pub async fn send(&self, method: Method, path: &str, body: &str, key: &str) -> anyhow::Result<Answer> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header(header::AUTHORIZATION, format!("Bearer {}", self.key))
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        if !key.is_empty() {
            request = request.header("idempotency-key", key);
        }
        self.http.send(request.body(Full::new(body.to_owned().into()))?).await
    }

    pub async fn post(&self, path: &str, body: &str) -> Answer {
        self.send(Method::POST, path, body, "").await.unwrap()
    }

    /// The answer of a call that must succeed.
    pub async fn ok(&self, path: &str, body: &str) -> Value {
        self.post(path, body).await.ok().unwrap()
    }

    pub async fn get(&self, path: &str) -> Value {
        self.send(Method::GET, path, "", "").await.unwrap().ok().unwrap()
    }

    pub async fn id(&self, path: &str, body: &str) -> String {
        self.ok(path, body).await["id"].as_str().unwrap().to_owned()
    }

    pub async fn meter(&self, customer: &str, identifier: &str, units: i64, at: i64) -> Answer {
        let payload = format!("payload[stripe_customer_id]={customer}&payload[value]={units}");
        let body = format!("event_name=api_call&identifier={identifier}&timestamp={at}&{payload}");
        self.post("/v1/billing/meter_events", &body).await
    }
}

/// The message of an error in Stripe's form.
pub fn message(answer: &Answer) -> String {
    answer.json().unwrap()["error"]["message"].as_str().unwrap().to_owned()
}
