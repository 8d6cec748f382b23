//! The public API and the inbox of a billing worker with a real PostgreSQL and the fake Stripe, in this process. One clock is
//! advanced for both.

use std::sync::Arc;

use anyhow::Result;
use axum::{Router, extract::Request};
use billing_worker::{
    accounts::{
        create::{self, NewAccount},
        keys::{self, NewKey},
        plans,
    },
    administration::{Administration, By, announce::Announcer},
    database,
    http::public::{self, PublicApi},
    metrics::Metrics,
    reports::{ReportSettings, Reporter},
    stripe::{Stripe, StripeSettings},
    subscriptions::{
        billing::{Billing, BillingSettings},
        portal,
        selling::{self, Unused},
    },
    webhook::worker,
};
use clap::Parser;
use devstack::{
    Servers, StripeDouble, StripeDoubleOptions,
    http::{Http, HttpResponse, request},
    stripe_double::Control,
};
use harness::PATIENCE;
use http::{HeaderValue, Method, header::CONTENT_TYPE};
use ingestor::migrate::{self, MigrateSettings};
use schema::{AccountId, Catalogue, Period, Scope, clock::Clock};
use serde_json::{Value, json};
use service::{Lifecycle, postgres::pool_options, server};
use sqlx::PgPool;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::{net::TcpListener, sync::Notify};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use uuid::Uuid;

mod settings;

use crate::reports::usage;

/// Three days, as in the settings of the rig.
pub(super) const GRACE_S: i64 = 3 * 86_400;
pub(super) const DAY_S: i64 = 86_400;

/// Fields are dropped in order: callers before the services that they call.
pub(super) struct Rig {
    pub billing: Billing,
    pub metrics: Metrics,
    /// Notified when an event was stored.
    pub inbox: Arc<Notify>,
    pub url: String,
    pub http: Http,
    pub pool: PgPool,
    pub database_url: String,
    args: Vec<String>,
    settings: Settings,
    /// All HTTP servers. Earlier ones still accept webhooks, as during a roll-out.
    serving: Vec<AbortOnDropHandle<()>>,
    pub stripe: StripeDouble,
    servers: Arc<Servers>,
}

/// An account with a key that has every scope.
#[derive(Clone, Debug)]
pub(super) struct Subscriber {
    pub account: AccountId,
    pub key: String,
}

#[derive(Parser)]
struct Settings {
    #[command(flatten)]
    stripe: StripeSettings,
    #[command(flatten)]
    billing: BillingSettings,
}

impl Rig {
    pub(super) async fn start() -> Self {
        Self::with(StripeDoubleOptions::default(), Catalogue::built_in()).await
    }

    pub(super) async fn with(options: StripeDoubleOptions, catalogue: Catalogue) -> Self {
        let rig = Self::without_prices(options, catalogue).await;
        rig.sync().await;
        rig
    }

    /// Plans that bill usage, and webhooks that are delivered. It begins ten seconds after a full minute, because meters count whole
    /// minutes.
    pub(super) async fn billing_usage() -> Self {
        let options = StripeDoubleOptions {
            start_at: Some(1_800_000_010),
            ..StripeDoubleOptions::default()
        };
        let rig = Self::with(options, with_overage()).await;
        rig.listen();
        rig
    }

    /// Products, prices and meters of the catalogue, and the portal's configuration.
    pub(super) async fn sync(&self) {
        self.sync_with(Unused::Keep).await;
    }

    pub(super) async fn sync_with(&self, unused: Unused) {
        let (stripe, admin) = (self.billing.stripe().unwrap(), &self.billing.admin);
        let compared = selling::compare(stripe, admin, unused).await.unwrap();
        selling::apply(stripe, admin, compared).await.unwrap();
        portal::remember(&self.billing).await.unwrap();
    }

    /// Switches to another catalogue, in Stripe and here.
    pub(super) async fn roll_out(&mut self, catalogue: Catalogue) {
        self.billing.admin.catalogue = Arc::new(catalogue);
        self.sync().await;
        plans::sync(&self.billing.admin, self.billing.clock.now_s())
            .await
            .unwrap();
        self.serve_again().await;
    }

    /// The API with the current catalogue and settings.
    pub(super) async fn serve_again(&mut self) {
        let (url, serving) = serve(&self.billing, &self.metrics, &self.inbox).await;
        self.url = url;
        self.serving.push(serving);
    }

    /// With a fake Stripe that has no products, prices or meters.
    pub(super) async fn without_prices(options: StripeDoubleOptions, catalogue: Catalogue) -> Self {
        let servers = Servers::shared().await.unwrap();
        let name = format!("subs_{:016x}", rand::random::<u64>());
        let database_url = servers.postgres.create_database(&name).await.unwrap();
        let pool = pool_options().connect(&database_url).await.unwrap();
        database::migrate(&pool).await.unwrap();
        let clickhouse = servers.clickhouse.client().with_database(&name);
        migrate::run(&clickhouse, &MigrateSettings::default()).await.unwrap();
        let stripe = StripeDouble::start(options).await.unwrap();
        // Calls whose effect at Stripe is not certain are violations.
        stripe.control().set_strict(true);
        let args = [
            "rig",
            "--stripe-secret-key",
            stripe.api_key(),
            "--stripe-api-base",
            stripe.url(),
            "--stripe-timeout",
            "2",
            "--stripe-calls-per-second",
            "1000",
            "--stripe-summary-wait",
            "1",
            "--stripe-webhook-secrets",
            stripe.webhook_secret(),
        ]
        .map(str::to_owned);
        let settings = Settings::parse_from(&args);
        let metrics = Metrics::default();
        let admin = Administration {
            db: pool.clone(),
            catalogue: Arc::new(catalogue),
            announcer: Announcer::of_service(metrics.clone()),
            clickhouse,
            corrections_wait: Arc::default(),
            by: By::Customer,
            name: None,
        };
        let clock = Clock::default();
        clock.turn_to(stripe.control().now());
        plans::sync(&admin, clock.now_s()).await.unwrap();
        let client = Stripe::new(&settings.stripe, metrics.stripe.clone()).unwrap().unwrap();
        let (db, clickhouse, catalogue) = (admin.db.clone(), admin.clickhouse.clone(), admin.catalogue.clone());
        let reports = metrics.reports.clone();
        let reporter = Reporter::new(db, clickhouse, client, catalogue, ReportSettings::default(), reports);
        let billing = Billing::new(admin, Some(reporter), settings.billing.clone(), clock);
        let inbox = Arc::default();
        let (url, serving) = serve(&billing, &metrics, &inbox).await;
        Self {
            billing,
            metrics,
            inbox,
            url,
            http: Http::default(),
            pool,
            database_url,
            args: args.into(),
            settings,
            serving: vec![serving],
            stripe,
            servers,
        }
    }

    /// The environment of a `billing-worker` process.
    pub(super) fn env(&self) -> Vec<(&'static str, String)> {
        let database = self.database_url.rsplit('/').next().unwrap().to_owned();
        vec![
            ("DATABASE_URL", self.database_url.clone()),
            ("CLICKHOUSE_URL", self.servers.clickhouse.url().to_owned()),
            ("CLICKHOUSE_DATABASE", database),
            ("STRIPE_SECRET_KEY", self.stripe.api_key().to_owned()),
            ("STRIPE_API_BASE", self.stripe.url().to_owned()),
        ]
    }

    pub(super) fn control(&self) -> Control {
        self.stripe.control()
    }

    /// From now on, Stripe sends its webhooks to this rig.
    pub(super) fn listen(&self) {
        self.control().add_webhook(&self.webhook_url()).unwrap();
    }

    pub(super) fn webhook_url(&self) -> String {
        format!("{}/billing/webhooks/stripe", self.url)
    }

    pub(super) async fn subscriber(&self, name: &str) -> Subscriber {
        let now = self.billing.clock.now_s();
        let new = NewAccount {
            name: name.to_owned(),
            email: format!("{name}@example.com"),
            plan: None,
        };
        let account = create::create(&self.billing.admin, new, now).await.unwrap();
        Subscriber {
            account,
            key: self.key(account, &Scope::ALL).await,
        }
    }

    /// A new key of the account.
    pub(super) async fn key(&self, account: AccountId, scopes: &[Scope]) -> String {
        let new = NewKey {
            scopes: Some(scopes.to_vec()),
            ..NewKey::default()
        };
        let now = self.billing.clock.now_s();
        keys::create(&self.billing.admin, account, new, now).await.unwrap().key
    }

    pub(super) async fn post(&self, who: &Subscriber, path: &str, body: Value) -> HttpResponse {
        let url = format!("{}/billing/{path}", self.url);
        self.http.post(&url, &who.key, &body).await.unwrap()
    }

    pub(super) async fn get(&self, who: &Subscriber, path: &str) -> Value {
        let url = format!("{}/billing/{path}", self.url);
        self.http.get(&url, &who.key).await.unwrap().ok().unwrap()
    }

    /// The account's subscription as its owner sees it.
    pub(super) async fn subscription(&self, who: &Subscriber) -> Value {
        self.get(who, "subscription").await
    }

    /// The account's running period as its owner sees it.
    pub(super) async fn period(&self, who: &Subscriber) -> Period {
        let subscription = self.subscription(who).await;
        let at = |field: &str| OffsetDateTime::parse(subscription[field].as_str().unwrap(), &Rfc3339).unwrap();
        Period {
            start: at("period_start").unix_timestamp(),
            end: at("period_end").unix_timestamp(),
        }
    }

    /// Usage of the current period, as stored in ClickHouse.
    pub(super) async fn use_units(&self, who: &Subscriber, usage_type: &str, units: i64) {
        let (clickhouse, period) = (&self.billing.admin.clickhouse, self.period(who).await);
        let units = [(who.account, usage_type, units)];
        usage::insert(clickhouse, self.control().now(), period, units, Uuid::nil()).await;
    }

    /// Voids units of a period.
    pub(super) async fn correct(&self, who: &Subscriber, period: Period, usage_type: &str, units: i64) {
        let (clickhouse, now) = (&self.billing.admin.clickhouse, self.control().now());
        usage::correct(&self.pool, clickhouse, now, period, (who.account, usage_type, units)).await;
    }

    /// Advances into the next period, and past the hour in which the previous period's invoice is a draft.
    pub(super) async fn end_period(&self, who: &Subscriber) {
        let end = self.period(who).await.end;
        for after_s in [60, 2 * 3_600] {
            self.turn_to(end + after_s);
            self.settle().await;
        }
    }

    /// Accounts with a subscription that is read or changed in Stripe at this moment.
    pub(super) async fn changes(&self) -> i64 {
        sqlx::query_scalar("select count(*) from subscription_leases where held_until > now()")
            .fetch_one(&self.pool)
            .await
            .unwrap()
    }

    /// Completes a checkout, as a customer would.
    pub(super) async fn check_out(&self, who: &Subscriber, plan: &str) {
        let opened = self
            .post(who, "create-checkout-session", json!({ "tier": plan }))
            .await
            .ok()
            .unwrap();
        self.control()
            .complete_checkout(opened["session_id"].as_str().unwrap())
            .unwrap();
    }

    /// A subscriber who completed a checkout, with its events processed.
    pub(super) async fn subscribed(&self, name: &str, plan: &str) -> Subscriber {
        let who = self.subscriber(name).await;
        self.check_out(&who, plan).await;
        self.settle().await;
        who
    }

    /// Advances both clocks; Stripe does everything that is due until then.
    pub(super) fn turn_to(&self, at_s: i64) {
        self.control().advance_to(at_s);
        self.billing.clock.turn_to(self.control().now());
    }

    pub(super) fn turn_by(&self, seconds: i64) {
        self.turn_to(self.control().now() + seconds);
    }

    /// Waits until Stripe has delivered all webhooks, and processes all of them.
    pub(super) async fn settle(&self) {
        self.control().settle_webhooks(PATIENCE).await.unwrap();
        self.work().await;
    }

    /// Processes the inbox until it is empty, including failed events that would wait.
    pub(super) async fn work(&self) {
        loop {
            sqlx::query("update webhook_events set next_attempt_at = now() where state = 'received'")
                .execute(&self.pool)
                .await
                .unwrap();
            if worker::step(&self.billing, &self.metrics).await.unwrap() == 0 {
                return;
            }
        }
    }

    /// A call that the test itself makes to Stripe, with a form.
    pub(super) async fn call_stripe(&self, method: Method, path: &str, form: &str) -> Value {
        let url = format!("{}{path}", self.stripe.url());
        let mut call = request(method, &url, self.stripe.api_key(), None).unwrap();
        let form_type = HeaderValue::from_static("application/x-www-form-urlencoded");
        call.headers_mut().insert(CONTENT_TYPE, form_type);
        *call.body_mut() = form.to_owned().into();
        self.http.send(call).await.unwrap().ok().unwrap()
    }

    /// Customers in Stripe that belong to this account.
    pub(super) fn customers(&self, who: &Subscriber) -> Vec<String> {
        let customers = self.control().customers().into_iter();
        let ours = customers.filter(|customer| customer["metadata"]["trendit_account"] == who.account.to_string());
        ours.map(|customer| customer["id"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Asserts that every request to Stripe was valid by its schema.
    pub(super) fn assert_valid(&self) {
        assert_eq!(self.control().violations(), Vec::<String>::new());
    }

    /// Everything that is stored about an account's subscriptions and invoices, except the times of writes, and except the plans and
    /// prices of periods, which are known only if an event arrived in time.
    pub(super) async fn state(&self, who: &Subscriber) -> Result<Value> {
        let subscriptions: Vec<Value> = sqlx::query_scalar(
            "select to_jsonb(s) - 'created_at' - 'updated_at' from subscriptions s where account_id = $1 order by id",
        )
        .bind(who.account.0)
        .fetch_all(&self.pool)
        .await?;
        let periods: Vec<Value> = sqlx::query_scalar(
            "select to_jsonb(p) - 'created_at' - 'plan_id' - 'prices' from billing_periods p where account_id = $1 order by period_start",
        )
        .bind(who.account.0)
        .fetch_all(&self.pool)
        .await?;
        let items: Vec<Value> = sqlx::query_scalar(
            "select to_jsonb(i) from subscription_items i join subscriptions s on s.id = i.subscription_id
             where s.account_id = $1 order by i.stripe_item_id",
        )
        .bind(who.account.0)
        .fetch_all(&self.pool)
        .await?;
        let invoices: Vec<Value> = sqlx::query_scalar(
            "select to_jsonb(i) - 'fetched_at' || jsonb_build_object('lines', array(
                 select to_jsonb(l) from stripe_invoice_lines l where l.invoice_id = i.id order by l.position))
             from stripe_invoices i where i.account_id = $1 order by i.id",
        )
        .bind(who.account.0)
        .fetch_all(&self.pool)
        .await?;
        Ok(json!({ "subscriptions": subscriptions, "periods": periods, "items": items, "invoices": invoices }))
    }
}

async fn serve(billing: &Billing, metrics: &Metrics, inbox: &Arc<Notify>) -> (String, AbortOnDropHandle<()>) {
    // As the service does, with half of the default: requests cannot take the connections of the rest.
    let connect = billing.admin.db.connect_options().as_ref().clone();
    let public = pool_options().max_connections(4).connect_lazy_with(connect);
    let api = PublicApi {
        billing: billing.on(&public),
        events: billing.clone(),
        metrics: metrics.clone(),
        inbox: inbox.clone(),
        life: Lifecycle::new(),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let serving = TaskTracker::new().spawn(async move {
        // As the service does: it writes the bodies of problems.
        let api = public::router(api);
        let finished = Router::new().fallback(move |request: Request| {
            let api = api.clone();
            async move { server::reply(api, request, problem::TYPE_BASE, &server::ServerMetrics::default()).await }
        });
        axum::serve(listener, finished).await.unwrap();
    });
    (url, AbortOnDropHandle::new(serving))
}

/// The built-in catalogue, with exports billed past the limit on every paid plan.
pub(super) fn with_overage() -> Catalogue {
    let text = include_str!("../../../schema/plans.toml")
        .replace(
            "usage.export = { limit = 100 }",
            "usage.export = { limit = 100, mode = \"overage\", unit_price_micros = 50_000 }",
        )
        .replace(
            "usage.export = { limit = 1_000 }",
            "usage.export = { limit = 1_000, mode = \"overage\", unit_price_micros = 40_000 }",
        );
    Catalogue::parse(&text).unwrap()
}
