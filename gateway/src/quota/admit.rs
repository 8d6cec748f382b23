//! How one request is admitted: units at hand, then one request for a lease, then a refusal. See [`super`].

use std::{sync::Arc, time::Instant};

use prometheus_client::metrics::counter::Counter as Counted;
use schema::{Mode, Period, PoolType, Terms, UsageType, subscription::Entitlement};
use tokio::time::timeout;

use super::{
    admission::{Admission, Refusal},
    capped,
    counter::Counter,
    counters::AccountCounters,
    leases::{LeaseAnswer, Others},
    quotas::Quotas,
    recall::Attempt,
    reservation::Hit,
    view::{self, QuotaView, Seen},
};
use crate::accounts::account::AccountState;

impl Quotas {
    /// Reserves `cost` units (1 or more), all or nothing.
    pub async fn admit(
        &self,
        account: &AccountCounters,
        usage_type: UsageType,
        cost: i64,
        now_s: i64,
    ) -> Result<Admission, Refusal> {
        let metrics = &self.inner.requests.metrics;
        let decided = match self.at_hand(account, usage_type, cost, now_s, &metrics.refusals_remembered) {
            Some(decided) => decided,
            None => self.admit_in_turn(account, usage_type, cost, now_s).await,
        };
        match &decided {
            Ok(_) => {}
            Err(Refusal::LimitReached(_)) => {
                metrics.refused_limit.inc();
            }
            Err(Refusal::SpendCapReached(_)) => {
                metrics.refused_spend_cap.inc();
            }
            Err(Refusal::PaymentRequired { .. } | Refusal::Suspended) => {
                metrics.refused_payment.inc();
            }
            Err(Refusal::Unavailable) => {
                metrics.refused_unavailable.inc();
            }
        }
        decided
    }

    /// The fast path: uses only the units and refusals at hand, without a lock, an await or PostgreSQL. `None`: the units at hand
    /// do not cover the cost, and there may be more. `remembered` counts refusals that need no request to PostgreSQL.
    fn at_hand(
        &self,
        account: &AccountCounters,
        usage_type: UsageType,
        cost: i64,
        now_s: i64,
        remembered: &Counted,
    ) -> Option<Result<Admission, Refusal>> {
        let metrics = &self.inner.requests.metrics;
        let state = account.account.state(now_s);
        let terms = match entitled(&state, usage_type) {
            Ok(terms) => terms,
            Err(refusal) => return Some(Err(refusal)),
        };
        if terms.mode != Mode::Limited {
            return match state.spend(usage_type) {
                Some(spend) => self.capped_at_hand(account, &state, spend, usage_type, cost),
                None => {
                    metrics.admitted_unleased.inc();
                    Some(Ok(unleased(&state, usage_type, cost)))
                }
            };
        }
        let current_plan = &state.current_plan;
        let counter = account.counter(PoolType::Limited(usage_type));
        let Some(hit) = counter.spend(&current_plan.period, cost) else {
            let view = remembered_refusal(counter, terms, &current_plan.period, cost)?;
            remembered.inc();
            return Some(Err(Refusal::LimitReached(view)));
        };
        if hit.renew {
            counter.request_service();
        }
        metrics.admitted_local.inc();
        Some(Ok(admission(&state, usage_type, hit)))
    }

    /// Waits in the counter's queue, so that one request of a counter asks for a lease at a time.
    async fn admit_in_turn(
        &self,
        account: &AccountCounters,
        usage_type: UsageType,
        cost: i64,
        now_s: i64,
    ) -> Result<Admission, Refusal> {
        /// The account may change while a request waits, for example because a spend cap is set.
        const QUEUES_MAX: usize = 3;
        let in_turn = async {
            for _ in 0..QUEUES_MAX {
                let pool = pool_of(&account.account.state(now_s), usage_type);
                let Some(slot) = account.counter(pool).queue.join(self.inner.settings.waiting_max) else {
                    return Err(Refusal::Unavailable);
                };
                let _asking = slot.reached().await;
                // The request ahead may have brought units, or a refusal, for those behind it.
                let waited = &self.inner.requests.metrics.refusals_waited;
                if let Some(decided) = self.at_hand(account, usage_type, cost, now_s, waited) {
                    return decided;
                }
                let state = Arc::clone(&account.account.state(now_s));
                if pool_of(&state, usage_type) == pool {
                    return self.admit_by_lease(account, state, pool, cost).await;
                }
            }
            Err(Refusal::Unavailable)
        };
        timeout(self.inner.settings.wait_max, in_turn)
            .await
            .unwrap_or(Err(Refusal::Unavailable))
    }

    /// Requests a lease. After a refusal, it tries again together with the units at hand, then with the units of other gateways.
    async fn admit_by_lease(
        &self,
        account: &AccountCounters,
        state: Arc<AccountState>,
        pool_type: PoolType,
        cost: i64,
    ) -> Result<Admission, Refusal> {
        let usage_type = pool_type.usage_type();
        let counter = account.counter(pool_type);
        let terms = entitled(&state, usage_type)?;
        let spend = state.spend(usage_type).filter(|_| pool_type.is_billed());
        if terms.mode != Mode::Limited && spend.is_none() {
            // The account changed a moment ago, for example because its trial ended.
            self.inner.requests.metrics.admitted_unleased.inc();
            return Ok(unleased(&state, usage_type, cost));
        }
        let period = spend.map_or(state.current_plan.period, |spend| spend.segment);
        let (mut surrender, mut returned_others) = (false, false);
        let mut attempt = Attempt::new(&self.inner.recalls);
        loop {
            let question = counter.refusals().question();
            let before = counter.open_units(&period);
            match counter.request_lease(&state, period, cost, surrender).await {
                LeaseAnswer::Granted(hit) => {
                    self.inner.requests.metrics.admitted_postgres.inc();
                    return Ok(match spend {
                        Some(_) => capped::admission(&state, usage_type, hit),
                        None => admission(&state, usage_type, hit),
                    });
                }
                LeaseAnswer::Unavailable => return Err(Refusal::Unavailable),
                LeaseAnswer::Refused {
                    pool,
                    alone,
                    others,
                    spent,
                } => {
                    let held = counter.open_units(&period);
                    let at_hand = if surrender { 0 } else { held.max(before) };
                    let remained = pool.remaining().saturating_add(at_hand);
                    if !surrender && at_hand > 0 && remained >= cost {
                        // Together, the units at hand and the pool may cover the cost.
                        surrender = true;
                        continue;
                    }
                    if let Some(spend) = spend.filter(|_| !returned_others) {
                        returned_others = true;
                        if self.return_others(account, spend, usage_type).await {
                            continue;
                        }
                    }
                    if attempt.is_worthwhile(&others) {
                        let pools = spend.map_or_else(|| vec![pool_type], |_| billed_pools(&state, account));
                        attempt.recall(account.account.id, &pools, &period, others).await;
                        surrender = true;
                        continue;
                    }
                    self.count_refusal(&attempt, &others);
                    if let Some(spent) = spent {
                        counter.refusals().remember_spent(question, period, remained, spent);
                        return Err(capped::reached(&state, usage_type, spent));
                    }
                    let seen = |is_current| Seen { held, pool, is_current };
                    let until = Instant::now() + attempt.memory(&others);
                    counter
                        .refusals()
                        .remember(question, period, remained, seen(alone), until);
                    return Err(Refusal::LimitReached(view::view(terms, period, seen(true))));
                }
            }
        }
    }

    fn count_refusal(&self, attempt: &Attempt<'_>, others: &Others) {
        let metrics = &self.inner.requests.metrics;
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
}

pub(super) fn entitled(state: &AccountState, usage_type: UsageType) -> Result<Terms, Refusal> {
    match state.current_plan.entitlement {
        Entitlement::Granted => Ok(state.terms(usage_type)),
        Entitlement::PaymentRequired if state.is_suspended() => Err(Refusal::Suspended),
        Entitlement::PaymentRequired => Err(Refusal::PaymentRequired {
            plan: state.current_plan.name.clone(),
            invoice_url: state.owed_invoice_url().map(str::to_owned),
        }),
    }
}

/// What the usage type takes leases of, if it needs any.
fn pool_of(state: &AccountState, usage_type: UsageType) -> PoolType {
    match state.spend(usage_type) {
        Some(_) => PoolType::Billed(usage_type),
        None => PoolType::Limited(usage_type),
    }
}

/// The pools that share the account's spend cap.
fn billed_pools(state: &AccountState, account: &AccountCounters) -> Vec<PoolType> {
    let usage_types = account.account.usage_types().iter();
    let billed = usage_types.filter(|usage_type| state.spend(**usage_type).is_some());
    billed.copied().map(PoolType::Billed).collect()
}

/// The remembered refusal of `cost`, with current numbers.
pub(super) fn remembered_refusal(counter: &Counter, terms: Terms, period: &Period, cost: i64) -> Option<QuotaView> {
    let known = counter.refusals().known(period, cost, Instant::now)?;
    let seen = counter.seen(period).unwrap_or(known);
    Some(view::view(terms, *period, seen))
}

/// An admission of usage that is never refused.
fn unleased(state: &AccountState, usage_type: UsageType, cost: i64) -> Admission {
    let view = view::unlimited_view(state.terms(usage_type), state.current_plan.period);
    Admission::unleased(usage_type, cost, &state.current_plan, view)
}

// This is on the fast path, where a function call would cost as much as the body.
#[inline(always)]
fn admission(state: &AccountState, usage_type: UsageType, hit: Hit) -> Admission {
    let terms = state.terms(usage_type);
    let view = view::view(terms, state.current_plan.period, hit.seen);
    Admission::leased(usage_type, hit.reservation, &state.current_plan, view)
}
