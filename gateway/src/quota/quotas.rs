//! Decides on requests: an atomic where the units are at hand, Postgres where they are not, the other gateways where the pool
//! is spent, and memory where all of them are.
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::Client;
use lane::link::Link;
use prometheus_client::registry::Registry;
use protocol::grant::Pool;
use schema::{Mode, Period, RunId, UsageType, catalogue::Allowance, period::instant, standing::Entitlement};
use service::Lifecycle;
use sqlx::PgPool;
use tokio::{
    sync::{Semaphore, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    accounts::account::{Account, State},
    quota::view::{self, Seen},
    quota::{
        admission::{Admission, QuotaView, Refusal},
        counter::{Counter, Hit},
        decision_metrics::QuotaMetrics,
        leases::{self, Answer, Broker, Desk, Others},
        recall::{self, Attempt, Recalls},
        turn::Turn,
    },
};

/// Queries at once of requests that only look.
const READS_MAX: usize = 2;

#[derive(Clone, Debug)]
pub struct QuotaSettings {
    /// How long a request may wait for units before it is answered `503`.
    pub wait_max: Duration,
    /// Requests of one counter that may wait for units at the same time; more are answered `503`.
    pub waiting_max: usize,
    /// A counter that spent nothing for so long gives its units back.
    pub idle_after: Duration,
    /// How long other gateways may take to give back what they hold before a request is refused.
    pub recall_wait: Duration,
    /// Counters served by one transaction.
    pub transaction_counters_max: usize,
    /// How long a transaction is tried before Postgres is taken for away.
    pub transaction_deadline: Duration,
    /// How long [`Quotas::return_all`] waits for requests under way and for Postgres.
    pub return_deadline: Duration,
}

impl Default for QuotaSettings {
    fn default() -> Self {
        Self {
            wait_max: Duration::from_secs(2),
            waiting_max: 1_024,
            idle_after: Duration::from_secs(30),
            recall_wait: Duration::from_millis(100),
            transaction_counters_max: 256,
            transaction_deadline: Duration::from_millis(1_500),
            return_deadline: Duration::from_secs(10),
        }
    }
}

#[derive(Clone)]
pub struct Quotas {
    inner: Arc<Inner>,
}

struct Inner {
    desk: Arc<Desk>,
    recalls: Arc<Recalls>,
    pool: PgPool,
    /// Turns of requests that only look: leases and heartbeats find a connection whoever looks how often.
    reads: Semaphore,
    settings: QuotaSettings,
    /// Ends the broker.
    ended: CancellationToken,
}

impl Quotas {
    /// Starts the broker, which lives until [`Quotas::return_all`] has ended, and the sweep, which stops with the service.
    /// Other gateways are heard once [`recall::follow`] is called.
    pub fn new(
        pool: PgPool,
        client: Client,
        link: Link,
        settings: QuotaSettings,
        metrics: &mut Registry,
        life: &Lifecycle,
    ) -> Self {
        let (desk, attentions) = Desk::new(QuotaMetrics::register(metrics));
        let ended = CancellationToken::new();
        let broker = Broker::new(Arc::clone(&desk), pool.clone(), attentions, &settings, ended.clone());
        life.spawn(broker.run());
        life.spawn(leases::sweep(Arc::clone(&desk), settings.idle_after, life.clone()));
        let timed_out = desk.metrics.recalls_timed_out.clone();
        let recalls = Recalls::new(client, link, settings.recall_wait, timed_out);
        life.spawn(recall::tell(Arc::clone(&desk), Arc::clone(&recalls), life.clone()));
        Self {
            inner: Arc::new(Inner {
                desk,
                recalls,
                pool,
                reads: Semaphore::new(READS_MAX),
                settings,
                ended,
            }),
        }
    }

    /// Reserves `cost` units (1 or more), all or nothing.
    pub async fn admit(
        &self,
        account: &Arc<Account>,
        usage_type: UsageType,
        cost: i64,
        now_s: i64,
    ) -> Result<Admission, Refusal> {
        let metrics = &self.inner.desk.metrics;
        let decided = match self.admit_at_once(account, usage_type, cost, now_s) {
            Some(decided) => decided,
            None => self.admit_in_turn(account, usage_type, cost, now_s).await,
        };
        match &decided {
            Ok(_) => {}
            Err(Refusal::LimitReached(_)) => {
                metrics.refused_limit.inc();
            }
            Err(Refusal::PaymentRequired { .. }) => {
                metrics.refused_payment.inc();
            }
            Err(Refusal::Unavailable) => {
                metrics.refused_unavailable.inc();
            }
        }
        decided
    }

    /// What every usage type stands at, in the catalogue's order; asks Postgres. Spends nothing.
    pub async fn view(&self, account: &Arc<Account>, now_s: i64) -> Result<Vec<(UsageType, QuotaView)>, Refusal> {
        let state = Arc::clone(&account.state(now_s));
        let rows = sqlx::query!(
            "select usage_type, limit_units, granted_units from quota_pool where account_id = $1 and period_start = $2",
            account.id.0,
            instant(state.standing.period.start)
        )
        .fetch_all(&self.inner.pool);
        let rows = self.answered(rows).await?;
        let view = |(usage_type, _): (UsageType, &Counter)| {
            let row = rows.iter().find(|row| row.usage_type == usage_type.name());
            let pool = row.map(|row| Pool {
                limit: row.limit_units,
                granted: row.granted_units,
            });
            (usage_type, stored_view(account, &state, usage_type, pool))
        };
        Ok(account.counters().map(view).collect())
    }

    /// Would `cost` units be admitted now? Spends nothing, reserves nothing.
    pub async fn check(
        &self,
        account: &Arc<Account>,
        usage_type: UsageType,
        cost: i64,
        now_s: i64,
    ) -> Result<QuotaView, Refusal> {
        let state = Arc::clone(&account.state(now_s));
        let allowance = entitled(&state, usage_type)?;
        let period = state.standing.period;
        if allowance.mode != Mode::Limited {
            return Ok(view::unlimited_view(allowance, period));
        }
        let counter = account.counter(usage_type);
        if let Some(seen) = counter.seen(&period).filter(|seen| seen.held >= cost) {
            return Ok(view::view(allowance, period, seen));
        }
        if let Some(view) = known_refusal(counter, allowance, &period, cost) {
            return Err(Refusal::LimitReached(view));
        }
        let row = sqlx::query!(
            "select limit_units, granted_units from quota_pool where account_id = $1 and usage_type = $2 and period_start = $3",
            account.id.0,
            usage_type.name(),
            instant(period.start)
        )
        .fetch_optional(&self.inner.pool);
        let row = self.answered(row).await?;
        let pool = row.as_ref().map(|row| Pool {
            limit: row.limit_units,
            granted: row.granted_units,
        });
        let view = stored_view(account, &state, usage_type, pool);
        let unspent = counter.unspent_units(&period);
        let remaining = pool.map_or(allowance.limit, |pool| pool.remaining().saturating_add(unspent));
        if remaining >= cost {
            Ok(view)
        } else {
            Err(Refusal::LimitReached(view))
        }
    }

    /// All lanes of `run` are open: leases may be taken for it.
    pub fn start_run(&self, run: RunId) {
        self.inner.desk.start_run(run);
    }

    /// The run was fenced: every lease of it is dropped, nothing of it is given back (settling does that).
    pub fn drop_run(&self) {
        self.inner.desk.drop_run();
    }

    /// The run that Postgres said is not live any more, found out when a lease was asked for: it has to be dropped and
    /// replaced. Until then requests are served from what is held.
    pub fn run_lost(&self) -> watch::Receiver<Option<RunId>> {
        self.inner.desk.run_lost()
    }

    /// Closes every counter, gives all unspent units back and waits until no reservation remains, or the deadline. Nothing
    /// is admitted under a limit afterwards.
    pub async fn return_all(&self) {
        let desk = &self.inner.desk;
        desk.drain();
        let emptied = async {
            loop {
                for account in desk.all_holders() {
                    for (usage_type, _) in account.counters() {
                        desk.close(&account, usage_type);
                    }
                }
                // Again and again: what a request returned may have come just before it could know that we stop.
                if timeout(Duration::from_millis(100), desk.emptied()).await.is_ok() {
                    return;
                }
            }
        };
        match timeout(self.inner.settings.return_deadline, emptied).await {
            Ok(()) => info!("returned all leases"),
            Err(_) => warn!(
                accounts = desk.all_holders().len(),
                "leases are not returned at the deadline: they are settled when this run is"
            ),
        }
        self.inner.ended.cancel();
    }

    pub(crate) fn desk(&self) -> &Arc<Desk> {
        &self.inner.desk
    }

    pub(crate) fn recalls(&self) -> &Arc<Recalls> {
        &self.inner.recalls
    }

    /// The hot path: no lock, no await, no Postgres. `None`: the units at hand do not cover the cost, and there may be more.
    fn admit_at_once(
        &self,
        account: &Arc<Account>,
        usage_type: UsageType,
        cost: i64,
        now_s: i64,
    ) -> Option<Result<Admission, Refusal>> {
        let desk = &self.inner.desk;
        let state = account.state(now_s);
        let allowance = match entitled(&state, usage_type) {
            Ok(allowance) => allowance,
            Err(refusal) => return Some(Err(refusal)),
        };
        let standing = &state.standing;
        if allowance.mode != Mode::Limited {
            desk.metrics.admitted_unleased.inc();
            let view = view::unlimited_view(allowance, standing.period);
            return Some(Ok(Admission::unleased(usage_type, cost, standing, view)));
        }
        let counter = account.counter(usage_type);
        let Some(hit) = counter.spend(&standing.period, cost) else {
            let view = known_refusal(counter, allowance, &standing.period, cost)?;
            desk.metrics.refusals_remembered.inc();
            return Some(Err(Refusal::LimitReached(view)));
        };
        if hit.renew {
            desk.attend(account, usage_type);
        }
        desk.metrics.admitted_local.inc();
        Some(Ok(admission(&state, usage_type, hit)))
    }

    async fn admit_in_turn(
        &self,
        account: &Arc<Account>,
        usage_type: UsageType,
        cost: i64,
        now_s: i64,
    ) -> Result<Admission, Refusal> {
        let Some(place) = account.counter(usage_type).queue.join(self.inner.settings.waiting_max) else {
            return Err(Refusal::Unavailable);
        };
        let in_turn = async {
            let mut turn = place.turn().await;
            // The one ahead may have brought units for those behind.
            match self.admit_at_once(account, usage_type, cost, now_s) {
                Some(decided) => decided,
                None => self.admit_by_asking(account, usage_type, cost, now_s, &mut turn).await,
            }
        };
        timeout(self.inner.settings.wait_max, in_turn)
            .await
            .unwrap_or(Err(Refusal::Unavailable))
    }

    async fn admit_by_asking(
        &self,
        account: &Arc<Account>,
        usage_type: UsageType,
        cost: i64,
        now_s: i64,
        turn: &mut Turn<'_>,
    ) -> Result<Admission, Refusal> {
        let desk = &self.inner.desk;
        let counter = account.counter(usage_type);
        let state = Arc::clone(&account.state(now_s));
        let allowance = entitled(&state, usage_type)?;
        let period = state.standing.period;
        if let Some(view) = turn.known_refusal(&period, cost) {
            desk.metrics.refusals_waited.inc();
            return Err(Refusal::LimitReached(view));
        }
        let mut surrender = false;
        let mut attempt = Attempt::new(&self.inner.recalls);
        loop {
            let (asked_at, question) = (turn.asking(), counter.refusals.question());
            let before = counter.open_units(&period);
            match desk.ask(account, usage_type, &state, cost, surrender).await {
                Answer::Granted(hit) => {
                    desk.metrics.admitted_postgres.inc();
                    return Ok(admission(&state, usage_type, hit));
                }
                Answer::Unavailable => return Err(Refusal::Unavailable),
                Answer::Refused { pool, alone, others } => {
                    let held = counter.open_units(&period);
                    let at_hand = if surrender { 0 } else { held.max(before) };
                    let remained = pool.remaining().saturating_add(at_hand);
                    if !surrender && at_hand > 0 && remained >= cost {
                        // What lies here in pieces may cover the cost together with what lies there.
                        surrender = true;
                        continue;
                    }
                    if attempt.is_worthwhile(&others) {
                        attempt.recall(account.id, usage_type, &period, others).await;
                        surrender = true;
                        continue;
                    }
                    self.count_refusal(&attempt, &others);
                    let seen = |is_current| Seen { held, pool, is_current };
                    let view = view::view(allowance, period, seen(true));
                    turn.refused(asked_at, remained, view);
                    let until = Instant::now() + attempt.memory(&others);
                    counter
                        .refusals
                        .remember(question, period, remained, seen(alone), until);
                    return Err(Refusal::LimitReached(view));
                }
            }
        }
    }

    fn count_refusal(&self, attempt: &Attempt<'_>, others: &Others) {
        let metrics = &self.inner.desk.metrics;
        metrics.refusals_asked.inc();
        match (attempt.made(), attempt.is_complete(others)) {
            (0, _) => {}
            (_, true) => {
                metrics.recalls_complete.inc();
            }
            (_, false) => {
                metrics.recalls_incomplete.inc();
            }
        }
    }

    /// What Postgres answered, within the time that a request may wait for its turn and the answer.
    async fn answered<T>(&self, query: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, Refusal> {
        let answer = async {
            let _turn = self.inner.reads.acquire().await;
            query.await
        };
        match timeout(self.inner.settings.wait_max, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                warn!("a quota could not be read: {error}");
                Err(Refusal::Unavailable)
            }
            Err(_) => Err(Refusal::Unavailable),
        }
    }
}

fn entitled(state: &State, usage_type: UsageType) -> Result<Allowance, Refusal> {
    match state.standing.entitlement {
        Entitlement::Granted => Ok(state.allowance(usage_type)),
        Entitlement::PaymentRequired => Err(Refusal::PaymentRequired {
            plan: state.standing.plan.clone(),
        }),
    }
}

/// The refusal of `cost` that is remembered, with what is known now.
fn known_refusal(counter: &Counter, allowance: Allowance, period: &Period, cost: i64) -> Option<QuotaView> {
    let known = counter.refusals.known(period, cost, Instant::now)?;
    let seen = counter.seen(period).unwrap_or(known);
    Some(view::view(allowance, *period, seen))
}

fn admission(state: &State, usage_type: UsageType, hit: Hit) -> Admission {
    let allowance = state.allowance(usage_type);
    let view = view::view(allowance, state.standing.period, hit.seen);
    Admission::leased(usage_type, hit.reservation, &state.standing, view)
}

/// What Postgres has just said of one usage type, less what is unspent here. No pool yet: nothing was ever asked for.
fn stored_view(account: &Arc<Account>, state: &State, usage_type: UsageType, pool: Option<Pool>) -> QuotaView {
    let (allowance, period) = (state.allowance(usage_type), state.standing.period);
    if allowance.mode != Mode::Limited {
        return view::unlimited_view(allowance, period);
    }
    let unopened = Pool {
        limit: allowance.limit,
        granted: 0,
    };
    let unspent = account.counter(usage_type).unspent_units(&period);
    let seen = Seen {
        held: unspent,
        pool: pool.unwrap_or(unopened),
        is_current: true,
    };
    view::view(allowance, period, seen)
}
