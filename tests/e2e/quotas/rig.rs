//! The rig of the quota tests: the quota parts of gateways in this process, with a real PostgreSQL and a real NATS.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::SeqCst},
    },
    time::Duration,
};

use billing_worker::administration::{Administration, By, announce::Announcer};
use devstack::Servers;
use gateway::{
    accounts::{AccountSettings, Accounts, announcements, refresh},
    clock::Clocks,
    quota::{AccountCounters, Admission, QuotaSettings, QuotaView, Quotas, Refusal, recall},
};
use lane::link::Link;
use prometheus_client::{encoding::text::encode, registry::Registry};
use schema::{AccountId, Catalogue, Period, RunId, SubscriptionId, UsageType, api_key::ApiKey, clock, period::instant};
use service::{Health, Lifecycle, nats::NatsSettings, postgres::pool_options};
use sqlx::PgPool;
use tokio::task::JoinSet;

/// Its own database, with the plans of the catalogue.
pub(super) struct Database {
    pub url: String,
    pub pool: PgPool,
    pub catalogue: Arc<Catalogue>,
    /// The NATS server that connects the gateways. A test that stops it uses its own.
    pub nats_url: String,
    _servers: Arc<Servers>,
}

/// The quota part of one gateway, with a run.
pub(super) struct Gateway {
    pub accounts: Accounts,
    pub quotas: Quotas,
    pub run: RunId,
    pub life: Lifecycle,
    metrics: Registry,
}

/// An account with a key.
pub(super) struct Customer {
    pub id: AccountId,
    pub key: ApiKey,
}

impl Database {
    pub(super) async fn open() -> Self {
        let servers = Servers::shared().await.unwrap();
        let name = format!("quotas_{:016x}", rand::random::<u64>());
        let url = servers.postgres.create_database(&name).await.unwrap();
        let pool = PgPool::connect(&url).await.unwrap();
        sqlx::migrate!("../schema/postgres").run(&pool).await.unwrap();
        let catalogue = Arc::new(Catalogue::built_in());
        for (position, plan) in catalogue.plans().iter().enumerate() {
            sqlx::query("insert into plans (id, name, price_cents, position) values ($1, $2, $3, $4)")
                .bind(&plan.id)
                .bind(&plan.name)
                .bind(plan.price_cents)
                .bind(position as i32)
                .execute(&pool)
                .await
                .unwrap();
            for usage_type in catalogue.usage_types() {
                let allowance = plan.allowance(*usage_type);
                sqlx::query("insert into plan_limits (plan_id, usage_type, limit_units, mode) values ($1, $2, $3, $4)")
                    .bind(&plan.id)
                    .bind(usage_type.name())
                    .bind(allowance.limit)
                    .bind(allowance.mode.as_str())
                    .execute(&pool)
                    .await
                    .unwrap();
            }
        }
        Self {
            url,
            pool,
            catalogue,
            nats_url: servers.nats.url().to_owned(),
            _servers: servers,
        }
    }

    pub(super) fn usage_type(&self, name: &str) -> UsageType {
        self.catalogue.usage_type(name).unwrap()
    }

    pub(super) async fn gateway(&self) -> Gateway {
        self.gateway_at(&self.url).await
    }

    pub(super) async fn gateway_at(&self, url: &str) -> Gateway {
        self.gateway_with(url, QuotaSettings::default(), AccountSettings::default())
            .await
    }

    pub(super) async fn gateway_with(&self, url: &str, quotas: QuotaSettings, accounts: AccountSettings) -> Gateway {
        let pool = pool_options().max_connections(8).connect_lazy(url).unwrap();
        let (life, mut metrics) = (Lifecycle::new(), Registry::default());
        let client = self.nats().await;
        let link = Link::watch(&client, &life);
        let clocks = Clocks::new(Health::new(), &mut metrics);
        let quotas = Quotas::new(pool.clone(), client.clone(), link, &clocks, quotas, &mut metrics, &life);
        let catalogue = Arc::clone(&self.catalogue);
        let accounts = Accounts::new(pool, catalogue, accounts, &quotas, &mut metrics);
        refresh::follow(accounts.clone(), &life);
        announcements::follow(client.clone(), accounts.clone(), &life);
        recall::follow(client, &quotas, &life);
        let run = self.register_run().await;
        quotas.start_run(run);
        Gateway {
            accounts,
            quotas,
            run,
            life,
            metrics,
        }
    }

    pub(super) async fn nats(&self) -> async_nats::Client {
        service::nats::connect(&self.nats_settings(), "quotas", &Health::new())
            .await
            .unwrap()
    }

    fn nats_settings(&self) -> NatsSettings {
        NatsSettings {
            nats_url: self.nats_url.clone(),
            nats_user: None,
            nats_password: None,
        }
    }

    /// The changes of a billing worker, announced to the gateways.
    pub(super) fn administration(&self) -> Administration {
        Administration {
            db: self.pool.clone(),
            catalogue: Arc::clone(&self.catalogue),
            announcer: Announcer::of_command(&self.nats_settings()),
            clickhouse: clickhouse::Client::default(),
            corrections_wait: Arc::default(),
            by: By::Command,
            name: None,
        }
    }

    /// A run that stays live without a heartbeat.
    pub(super) async fn register_run(&self) -> RunId {
        let run = RunId::new();
        sqlx::query(
            "insert into gateway_runs (id, gateway, generation, shards, heartbeat_at)
             values ($1, 'test', 1, 1, now() + interval '1 day')",
        )
        .bind(run.0)
        .execute(&self.pool)
        .await
        .unwrap();
        run
    }

    pub(super) async fn set_run_state(&self, run: RunId, state: &str) {
        sqlx::query("update gateway_runs set state = $2 where id = $1")
            .bind(run.0)
            .bind(state)
            .execute(&self.pool)
            .await
            .unwrap();
    }

    pub(super) async fn set_status(&self, customer: &Customer, status: &str) {
        sqlx::query("update accounts set status = $2 where id = $1")
            .bind(customer.id.0)
            .bind(status)
            .execute(&self.pool)
            .await
            .unwrap();
    }

    pub(super) async fn revoke(&self, key: &ApiKey) {
        sqlx::query("update api_keys set revoked_at = now() where id = $1")
            .bind(key.id().0)
            .execute(&self.pool)
            .await
            .unwrap();
    }

    pub(super) async fn customer(&self) -> Customer {
        let customer = Customer {
            id: AccountId::new(),
            key: ApiKey::generate(),
        };
        sqlx::query("insert into accounts (id, name, email) values ($1, 'test', $2)")
            .bind(customer.id.0)
            .bind(format!("{}@example.com", customer.id))
            .execute(&self.pool)
            .await
            .unwrap();
        self.insert_key(&customer).await;
        customer
    }

    pub(super) async fn insert_key(&self, customer: &Customer) {
        sqlx::query("insert into api_keys (id, account_id, secret_sha256, name) values ($1, $2, $3, 'test')")
            .bind(customer.key.id().0)
            .bind(customer.id.0)
            .bind(customer.key.hash().as_bytes().as_slice())
            .execute(&self.pool)
            .await
            .unwrap();
    }

    /// Updates the override and the existing pools under the account's lock, as the billing worker does.
    pub(super) async fn set_limit(&self, customer: &Customer, usage_type: UsageType, units: i64) {
        let mut transaction = self.pool.begin().await.unwrap();
        sqlx::query("select id from accounts where id = $1 for update")
            .bind(customer.id.0)
            .execute(&mut *transaction)
            .await
            .unwrap();
        sqlx::query(
            "insert into limit_overrides (account_id, usage_type, limit_units) values ($1, $2, $3)
             on conflict (account_id, usage_type) do update set limit_units = excluded.limit_units",
        )
        .bind(customer.id.0)
        .bind(usage_type.name())
        .bind(units)
        .execute(&mut *transaction)
        .await
        .unwrap();
        sqlx::query("update quota_pool set limit_units = $3 where account_id = $1 and usage_type = $2")
            .bind(customer.id.0)
            .bind(usage_type.name())
            .bind(units)
            .execute(&mut *transaction)
            .await
            .unwrap();
        transaction.commit().await.unwrap();
    }

    /// Ends the current subscription and begins one to `plan`.
    pub(super) async fn subscribe(&self, customer: &Customer, plan: &str, period: Period) {
        let mut transaction = self.pool.begin().await.unwrap();
        sqlx::query("update subscriptions set is_current = false, updated_at = now() where account_id = $1")
            .bind(customer.id.0)
            .execute(&mut *transaction)
            .await
            .unwrap();
        sqlx::query(
            "insert into subscriptions (id, account_id, plan_id, status, period_start, period_end, billing_anchor)
             values ($1, $2, $3, 'active', $4, $5, $4)",
        )
        .bind(SubscriptionId::new().0)
        .bind(customer.id.0)
        .bind(plan)
        .bind(instant(period.start))
        .bind(instant(period.end))
        .execute(&mut *transaction)
        .await
        .unwrap();
        transaction.commit().await.unwrap();
    }

    /// Granted units of all periods, and the number of live leases.
    pub(super) async fn pools(&self) -> (i64, i64) {
        sqlx::query_as(
            "select (select coalesce(sum(granted_units), 0)::bigint from quota_pool),
                    (select count(*) from quota_leases where state = 'live')",
        )
        .fetch_one(&self.pool)
        .await
        .unwrap()
    }

    /// Units of all leases that were not returned.
    pub(super) async fn kept_by_leases(&self) -> i64 {
        sqlx::query_scalar("select coalesce(sum(units - returned_units), 0)::bigint from quota_leases")
            .fetch_one(&self.pool)
            .await
            .unwrap()
    }

    /// The ledger check of quotas: all unspent units are returned.
    pub(super) async fn assert_settled(&self, spent: i64) {
        assert_eq!(self.pools().await, (spent, 0), "units granted, live leases");
        assert_eq!(self.kept_by_leases().await, spent, "units that leases did not return");
    }
}

impl Gateway {
    pub(super) async fn account(&self, customer: &Customer) -> Arc<AccountCounters> {
        let key = self.accounts.authenticate(customer.key.reveal(), clock::now_s()).await;
        Arc::clone(&key.unwrap().counters)
    }

    pub(super) async fn admit(
        &self,
        account: &Arc<AccountCounters>,
        usage_type: UsageType,
        cost: i64,
    ) -> Result<Admission, Refusal> {
        self.quotas.admit(account, usage_type, cost, clock::now_s()).await
    }

    /// Spends `cost` repeatedly until a request is refused. Returns the refusal.
    pub(super) async fn spend_all(
        &self,
        account: &Arc<AccountCounters>,
        usage_type: UsageType,
        cost: i64,
        spent: &AtomicI64,
    ) -> QuotaView {
        loop {
            match self.admit(account, usage_type, cost).await {
                Ok(admission) => {
                    // Let other tasks run between the decision and its outcome, as publishing does.
                    tokio::task::yield_now().await;
                    spent.fetch_add(cost, SeqCst);
                    admission.spent();
                }
                Err(Refusal::LimitReached(view)) => return view,
                Err(Refusal::Unavailable) => tokio::time::sleep(Duration::from_millis(5)).await,
                Err(refusal) => panic!("{refusal:?}"),
            }
        }
    }

    /// Announces a change of the account to this gateway alone, and waits until it is in effect.
    pub(super) async fn notify(&self, customer: &Customer) {
        self.accounts.changed(&[], &[customer.id]).await;
        self.account(customer).await;
    }

    /// A counter of its metrics, such as `admitted_total{source="local"}`.
    pub(super) fn metric(&self, name: &str) -> u64 {
        let mut text = String::new();
        encode(&mut text, &self.metrics).unwrap();
        let name = format!("gateway_quota_{name} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&name));
        line.unwrap_or_else(|| panic!("no metric {name}")).parse().unwrap()
    }

    pub(super) async fn stop(self) {
        self.quotas.return_all().await;
        self.life.stop();
        self.life.finished(Duration::from_secs(10)).await.unwrap();
    }
}

/// Lets clients of every gateway spend until they are refused. `clients`: the cost of each client's requests. Returns the spent
/// units.
pub(super) async fn drain(
    gateways: &[Arc<Gateway>],
    customer: &Customer,
    usage_type: UsageType,
    clients: &[i64],
) -> i64 {
    let spent = Arc::new(AtomicI64::new(0));
    let mut tasks = JoinSet::new();
    for gateway in gateways {
        let account = gateway.account(customer).await;
        for cost in clients {
            let (gateway, account, spent, cost) =
                (Arc::clone(gateway), Arc::clone(&account), Arc::clone(&spent), *cost);
            tasks.spawn(async move { gateway.spend_all(&account, usage_type, cost, &spent).await });
        }
    }
    while let Some(refusal) = tasks.join_next().await {
        refusal.unwrap();
    }
    spent.load(SeqCst)
}

pub(super) async fn stop_all(gateways: Vec<Arc<Gateway>>) {
    for gateway in gateways {
        Arc::into_inner(gateway).expect("its clients have ended").stop().await;
    }
}
