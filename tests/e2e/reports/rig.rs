//! Accounts with customers in the fake Stripe, usage in ClickHouse, and a reporter between them. The reporter uses the fake
//! Stripe's clock.

use std::{collections::HashMap, sync::Arc, time::Duration};

use billing_worker::{
    reports::{
        self, ReportSettings, Reporter, Step,
        attention::{self, Attention},
    },
    stripe::{Stripe, StripeSettings},
};
use clickhouse::{Client, Row};
use devstack::{
    DataDir, Nats, Servers, Service, ServiceOptions, StripeDouble, StripeDoubleOptions,
    http::Http,
    ports,
    stripe_double::{Control, FaultKind, FaultRule},
};
use futures_util::{StreamExt, stream};
use http::{Method, Request, header};
use http_body_util::Full;
use ingestor::migrate::{self, MigrateSettings};
use schema::{AccountId, Catalogue, Period, period::instant};
use serde_json::Value;
use service::postgres::pool_options;
use sqlx::PgPool;
use time::OffsetDateTime;
use uuid::Uuid;

use super::usage;
use crate::SERVICES;

pub(super) const TYPES: [&str; 3] = ["api_call", "export", "sentiment_analysis"];
pub(super) const HOUR: i64 = 3_600;
pub(super) const DAY: i64 = 24 * HOUR;
/// Not on a full minute, because periods begin whenever someone subscribes.
pub(super) const START: i64 = 1_800_000_017;

/// Fields are dropped in order: the fake Stripe before servers.
pub(super) struct Rig {
    pub reporter: Reporter,
    pub db: PgPool,
    pub database_url: String,
    pub clickhouse: Client,
    pub double: StripeDouble,
    pub stripe: Control,
    pub servers: Arc<Servers>,
    http: Http,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Account {
    pub id: AccountId,
    pub customer: String,
}

/// The month that begins at [`START`].
pub(super) fn month(n: i64) -> Period {
    Period {
        start: START + n * 30 * DAY,
        end: START + (n + 1) * 30 * DAY,
    }
}

impl Rig {
    pub(super) async fn start() -> Self {
        Self::with(StripeDoubleOptions::default(), ReportSettings::default()).await
    }

    pub(super) async fn with(options: StripeDoubleOptions, settings: ReportSettings) -> Self {
        let servers = Servers::shared().await.unwrap();
        let name = format!("reports_{:016x}", rand::random::<u64>());
        let clickhouse = servers.clickhouse.client().with_database(&name);
        let database_url = servers.postgres.create_database(&name).await.unwrap();
        let settings_of_tables = MigrateSettings::default();
        let (migrated, db) = tokio::join!(migrate::run(&clickhouse, &settings_of_tables), async {
            let db = pool_options().connect(&database_url).await.unwrap();
            billing_worker::database::migrate(&db).await.unwrap();
            db
        });
        migrated.unwrap();
        let double = StripeDouble::start(StripeDoubleOptions {
            start_at: options.start_at.or(Some(START + 60)),
            ..options
        })
        .await
        .unwrap();
        let settings_of_stripe = StripeSettings {
            stripe_secret_key: Some(double.api_key().to_owned()),
            stripe_api_base: double.url().to_owned(),
            stripe_timeout: Duration::from_secs(5),
            stripe_calls_per_second: 1_000,
            stripe_reads_per_second: None,
            stripe_writes_per_second: None,
            stripe_meter_events_per_second: 5_000,
            automatic_tax: false,
        };
        let stripe = Stripe::new(&settings_of_stripe, Default::default()).unwrap().unwrap();
        let catalogue = Arc::new(Catalogue::built_in());
        let reporter = Reporter::new(
            db.clone(),
            clickhouse.clone(),
            stripe,
            catalogue,
            settings,
            Default::default(),
        );
        let rig = Self {
            reporter,
            db,
            database_url,
            clickhouse,
            stripe: double.control(),
            double,
            servers,
            http: Http::default(),
        };
        let slots = ["trendit", "trendit2"].into_iter();
        for (slot, usage_type) in slots.flat_map(|slot| TYPES.map(|usage_type| (slot, usage_type))) {
            let meter = [
                ("event_name", format!("{slot}_{usage_type}")),
                ("display_name", usage_type.to_owned()),
                ("default_aggregation[formula]", "sum".to_owned()),
                ("customer_mapping[type]", "by_id".to_owned()),
                ("customer_mapping[event_payload_key]", "stripe_customer_id".to_owned()),
                ("value_settings[event_payload_key]", "value".to_owned()),
            ];
            rig.call(Method::POST, "/v1/billing/meters", &meter).await;
        }
        rig
    }

    /// Everything that needs an operator's attention.
    pub(super) async fn attention(&self) -> Attention {
        attention::find(&self.db, &self.reporter.catalogue).await.unwrap()
    }

    pub(super) fn now(&self) -> i64 {
        self.stripe.now()
    }

    /// The environment of a `billing-worker` process.
    pub(super) fn env(&self) -> Vec<(&'static str, String)> {
        vec![
            ("DATABASE_URL", self.database_url.clone()),
            ("CLICKHOUSE_URL", self.servers.clickhouse.url().to_owned()),
            (
                "CLICKHOUSE_DATABASE",
                self.database_url.rsplit('/').next().unwrap().to_owned(),
            ),
            ("STRIPE_SECRET_KEY", self.double.api_key().to_owned()),
            ("STRIPE_API_BASE", self.double.url().to_owned()),
        ]
    }

    /// A `billing-worker` process that uses the real clock, and the URL of its public API.
    pub(super) async fn start_worker(
        &self,
        data: &DataDir,
        nats: &Nats,
        settings: &[(&str, &str)],
    ) -> (Service, String) {
        let (admin, public) = (ports::free().unwrap(), ports::free().unwrap());
        let mut worker = ServiceOptions::new("billing-worker", "billing-worker", data.path().to_owned(), admin)
            .env("ADMIN_ADDR", format!("127.0.0.1:{admin}"))
            .env("BILLING_LISTEN", format!("127.0.0.1:{public}"))
            .env("NATS_URL", nats.url())
            .env("STRIPE_WEBHOOK_SECRETS", self.double.webhook_secret());
        worker.exe = Some(SERVICES.into());
        for (name, value) in self.env() {
            worker = worker.env(name, value);
        }
        for (name, value) in settings {
            worker = worker.env(*name, *value);
        }
        let worker = Service::start(worker).await.unwrap();
        (worker, format!("http://127.0.0.1:{public}"))
    }

    /// A call that the test itself makes to Stripe.
    pub(super) async fn call(&self, method: Method, path: &str, params: &[(&str, String)]) -> Value {
        let escaped = |text: &str| -> String {
            let byte = |byte: u8| match byte {
                b if b.is_ascii_alphanumeric() || b"_-.".contains(&b) => (b as char).to_string(),
                b => format!("%{b:02X}"),
            };
            text.bytes().map(byte).collect()
        };
        let form: Vec<_> = params
            .iter()
            .map(|(key, value)| format!("{}={}", escaped(key), escaped(value)))
            .collect();
        let (query, body) = match method {
            Method::GET => (format!("?{}", form.join("&")), String::new()),
            _ => (String::new(), form.join("&")),
        };
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}{query}", self.double.url()))
            .header(header::AUTHORIZATION, format!("Bearer {}", self.double.api_key()))
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header("stripe-version", "2026-09-30.endive")
            .body(Full::from(body))
            .unwrap();
        self.http.send(request).await.unwrap().ok().unwrap()
    }

    /// Creates accounts, each with a customer and this billing period.
    pub(super) async fn accounts(&self, count: usize, period: Period) -> Vec<Account> {
        let customers = stream::iter(0..count).map(async |n| {
            let customer = [("email", format!("{n}@example.com"))];
            let customer = self.call(Method::POST, "/v1/customers", &customer).await;
            Account {
                id: AccountId::new(),
                customer: customer["id"].as_str().unwrap().to_owned(),
            }
        });
        let accounts: Vec<Account> = customers.buffer_unordered(32).collect().await;
        let ids: Vec<_> = accounts.iter().map(|account| account.id.0).collect();
        let customers: Vec<_> = accounts.iter().map(|account| account.customer.clone()).collect();
        sqlx::query(
            "insert into accounts (id, name, email) select a, 'n', a || '@example.com' from unnest($1::uuid[]) a",
        )
        .bind(&ids)
        .execute(&self.db)
        .await
        .unwrap();
        sqlx::query(
            "insert into stripe_customers (account_id, customer_id, livemode)
             select a, c, false from unnest($1::uuid[], $2::text[]) as u (a, c)",
        )
        .bind(&ids)
        .bind(&customers)
        .execute(&self.db)
        .await
        .unwrap();
        self.add_period(&accounts, period).await;
        accounts
    }

    pub(super) async fn account(&self) -> Account {
        self.accounts(1, month(0)).await.remove(0)
    }

    pub(super) async fn add_period(&self, accounts: &[Account], period: Period) {
        sqlx::query(
            "insert into billing_periods (account_id, period_start, period_end, customer_id, stripe_subscription_id)
             select a, $3, $4, c, 'sub_of_' || c from unnest($1::uuid[], $2::text[]) as u (a, c)",
        )
        .bind(accounts.iter().map(|account| account.id.0).collect::<Vec<_>>())
        .bind(
            accounts
                .iter()
                .map(|account| account.customer.clone())
                .collect::<Vec<_>>(),
        )
        .bind(instant(period.start))
        .bind(instant(period.end))
        .execute(&self.db)
        .await
        .unwrap();
    }

    /// Stripe has finalized the period's invoices.
    pub(super) async fn finalize(&self, period: Period) {
        sqlx::query("update billing_periods set final_at = $2 where period_start = $1")
            .bind(instant(period.start))
            .bind(instant(self.now()))
            .execute(&self.db)
            .await
            .unwrap();
    }

    pub(super) async fn use_units(&self, account: &Account, period: Period, usage_type: &str, units: &[i64]) {
        let usage = units.iter().map(|units| (account.id, usage_type, *units));
        self.insert(period, usage, Uuid::nil()).await;
    }

    pub(super) async fn correct(&self, account: &Account, period: Period, usage_type: &str, units: i64) {
        let units = (account.id, usage_type, units);
        usage::correct(&self.db, &self.clickhouse, self.now(), period, units).await;
    }

    /// Inserts units of many accounts at once.
    pub(super) async fn insert(
        &self,
        period: Period,
        units: impl IntoIterator<Item = (AccountId, &str, i64)>,
        corrects: Uuid,
    ) {
        usage::insert(&self.clickhouse, self.now(), period, units, corrects).await;
    }

    pub(super) async fn step(&self) -> Step {
        reports::step(&self.reporter, self.now()).await.unwrap()
    }

    /// Units of a period that Stripe has.
    pub(super) fn reported(&self, account: &Account, period: Period, usage_type: &str) -> i64 {
        let name = format!("trendit_{usage_type}");
        self.stripe
            .meter_total(&account.customer, &name, period.start, period.end)
    }

    pub(super) fn fault(&self, kind: FaultKind) -> FaultRule {
        FaultRule::new(kind).path("/v1/billing/meter_events").method("POST")
    }

    /// Carried in, carried out and drift of each line.
    pub(super) async fn lines(&self) -> HashMap<(AccountId, i64, String), (i64, i64, i64)> {
        let rows: Vec<(Uuid, OffsetDateTime, String, i64, i64, i64)> = sqlx::query_as(
            "select account_id, period_start, usage_type, carried_in, carried_out, drift_units from meter_ledger",
        )
        .fetch_all(&self.db)
        .await
        .unwrap();
        let line = |row: (Uuid, OffsetDateTime, String, i64, i64, i64)| {
            ((AccountId(row.0), row.1.unix_timestamp(), row.2), (row.3, row.4, row.5))
        };
        rows.into_iter().map(line).collect()
    }

    /// The number of meter events that Stripe was sent.
    pub(super) fn meter_events(&self) -> usize {
        let requests = self.stripe.requests();
        let is_event = |path: &str| path == "/v1/billing/meter_events";
        requests.iter().filter(|request| is_event(&request.path)).count()
    }

    /// A dead worker's claims last for some minutes, so pretend that they have ended.
    pub(super) async fn end_claims(&self) {
        sqlx::query("update meter_reports set claimed_until = null where claimed_until is not null")
            .execute(&self.db)
            .await
            .unwrap();
    }

    /// The number of reports in a state.
    pub(super) async fn count(&self, state: &str) -> i64 {
        sqlx::query_scalar("select count(*) from meter_reports where state = $1")
            .bind(state)
            .fetch_one(&self.db)
            .await
            .unwrap()
    }

    /// The ledger check of reports: for every line, reported = counted + carried in − carried out, and no report is open.
    pub(super) async fn assert_told_is_counted(&self, accounts: &[Account], periods: &[Period]) {
        let counted = self.sums().await;
        let lines = self.lines().await;
        for account in accounts {
            for period in periods {
                for usage_type in TYPES {
                    let line = (account.id, period.start, usage_type.to_owned());
                    let (carried_in, carried_out, drift) = lines.get(&line).copied().unwrap_or_default();
                    let expected = counted.get(&line).copied().unwrap_or(0) + carried_in - carried_out;
                    assert_eq!(
                        (self.reported(account, *period, usage_type), drift),
                        (expected, 0),
                        "{line:?}"
                    );
                }
            }
        }
        assert_eq!(self.count("open").await, 0);
        assert_eq!(self.stripe.violations(), Vec::<String>::new());
    }

    /// Units of each line that ClickHouse has counted.
    pub(super) async fn sums(&self) -> HashMap<(AccountId, i64, String), i64> {
        #[derive(Row, serde::Deserialize)]
        struct Counted {
            #[serde(with = "clickhouse::serde::uuid")]
            account_id: Uuid,
            usage_type: String,
            start: i64,
            units: i64,
        }
        let query = "select account_id, toString(usage_type) as usage_type, toInt64(period_start) as start, \
                     sum(cost_units) as units from usage_events group by account_id, usage_type, period_start";
        let rows = self.clickhouse.query(query).fetch_all::<Counted>().await.unwrap();
        let line = |row: Counted| ((AccountId(row.account_id), row.start, row.usage_type), row.units);
        rows.into_iter().map(line).collect()
    }
}
