//! How one request is admitted: units at hand, then one request for a lease, then a refusal. See [`super`].

use std::{sync::Arc, time::Instant};

use prometheus_client::metrics::counter::Counter as Counted;
use schema::{Mode, Period, Terms, UsageType, subscription::Entitlement};
use tokio::time::timeout;

use super::{
    admission::{Admission, Refusal},
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
        let current_plan = &state.current_plan;
        if terms.mode != Mode::Limited {
            metrics.admitted_unleased.inc();
            return Some(Ok(unleased(&state, usage_type, cost)));
        }
        let counter = account.counter(usage_type);
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
        let Some(slot) = account.counter(usage_type).queue.join(self.inner.settings.waiting_max) else {
            return Err(Refusal::Unavailable);
        };
        let in_turn = async {
            let _asking = slot.reached().await;
            // The request ahead may have brought units, or a refusal, for those behind it.
            let waited = &self.inner.requests.metrics.refusals_waited;
            match self.at_hand(account, usage_type, cost, now_s, waited) {
                Some(decided) => decided,
                None => self.admit_by_lease(account, usage_type, cost, now_s).await,
            }
        };
        timeout(self.inner.settings.wait_max, in_turn)
            .await
            .unwrap_or(Err(Refusal::Unavailable))
    }

    /// Requests a lease. After a refusal, it tries again together with the units at hand, then with the units of other gateways.
    async fn admit_by_lease(
        &self,
        account: &AccountCounters,
        usage_type: UsageType,
        cost: i64,
        now_s: i64,
    ) -> Result<Admission, Refusal> {
        let counter = account.counter(usage_type);
        let state = Arc::clone(&account.account.state(now_s));
        let terms = entitled(&state, usage_type)?;
        if terms.mode != Mode::Limited {
            // The account changed a moment ago, for example because its trial ended.
            self.inner.requests.metrics.admitted_unleased.inc();
            return Ok(unleased(&state, usage_type, cost));
        }
        let period = state.current_plan.period;
        let mut surrender = false;
        let mut attempt = Attempt::new(&self.inner.recalls);
        loop {
            let question = counter.refusals().question();
            let before = counter.open_units(&period);
            match counter.request_lease(&state, cost, surrender).await {
                LeaseAnswer::Granted(hit) => {
                    self.inner.requests.metrics.admitted_postgres.inc();
                    return Ok(admission(&state, usage_type, hit));
                }
                LeaseAnswer::Unavailable => return Err(Refusal::Unavailable),
                LeaseAnswer::Refused { pool, alone, others } => {
                    let held = counter.open_units(&period);
                    let at_hand = if surrender { 0 } else { held.max(before) };
                    let remained = pool.remaining().saturating_add(at_hand);
                    if !surrender && at_hand > 0 && remained >= cost {
                        // Together, the units at hand and the pool may cover the cost.
                        surrender = true;
                        continue;
                    }
                    if attempt.is_worthwhile(&others) {
                        attempt.recall(account.account.id, usage_type, &period, others).await;
                        surrender = true;
                        continue;
                    }
                    self.count_refusal(&attempt, &others);
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
        }),
    }
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
