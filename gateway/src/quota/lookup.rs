//! Reads quotas without spending: all usage types of an account, or whether one cost would be admitted.

use std::sync::Arc;

use protocol::grant::Pool;
use quota_store::pools;
use schema::{Mode, PoolType, UsageType};
use tokio::time::timeout;
use tracing::warn;

use super::{
    admission::Refusal,
    admit::{entitled, remembered_refusal},
    counters::AccountCounters,
    quotas::Quotas,
    view::{self, QuotaView, Seen},
};
use crate::accounts::account::AccountState;

impl Quotas {
    /// The quota of every usage type, in the catalogue's order. Asks PostgreSQL, spends nothing.
    pub async fn view(&self, account: &AccountCounters, now_s: i64) -> Result<Vec<(UsageType, QuotaView)>, Refusal> {
        let state = Arc::clone(&account.account.state(now_s));
        let stored = pools::of_period(&self.inner.pool, account.account.id, state.current_plan.period.start);
        let stored = self.answered(stored).await?;
        let view = |usage_type: &UsageType| {
            let pool = stored.get(usage_type.name()).copied();
            (*usage_type, stored_view(account, &state, *usage_type, pool))
        };
        Ok(account.account.usage_types().iter().map(view).collect())
    }

    /// Checks whether `cost` units would be admitted now. Spends and reserves nothing.
    pub async fn check(
        &self,
        account: &AccountCounters,
        usage_type: UsageType,
        cost: i64,
        now_s: i64,
    ) -> Result<QuotaView, Refusal> {
        let state = Arc::clone(&account.account.state(now_s));
        let terms = entitled(&state, usage_type)?;
        let period = state.current_plan.period;
        if terms.mode != Mode::Limited {
            return match state.spend(usage_type) {
                Some(spend) => self.check_capped(account, &state, spend, usage_type, cost).await,
                None => Ok(view::unlimited_view(terms, period)),
            };
        }
        let counter = account.counter(PoolType::Limited(usage_type));
        if let Some(seen) = counter.seen(&period).filter(|seen| seen.held >= cost) {
            return Ok(view::view(terms, period, seen));
        }
        if let Some(view) = remembered_refusal(counter, terms, &period, cost) {
            return Err(Refusal::LimitReached(view));
        }
        let pool = pools::find(&self.inner.pool, account.account.id, usage_type.name(), period.start);
        let pool = self.answered(pool).await?;
        let view = stored_view(account, &state, usage_type, pool);
        let unspent = counter.unspent_units(&period);
        let remaining = pool.map_or(terms.limit, |pool| pool.remaining().saturating_add(unspent));
        if remaining >= cost {
            Ok(view)
        } else {
            Err(Refusal::LimitReached(view))
        }
    }

    /// Runs a query. The wait for a permit and for the answer has one time limit, the same as for requests.
    pub(super) async fn answered<T>(&self, query: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, Refusal> {
        let answer = async {
            let _permit = self.inner.reads.acquire().await;
            query.await
        };
        match timeout(self.inner.settings.wait_max, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                warn!("cannot read a quota: {error}");
                Err(Refusal::Unavailable)
            }
            Err(_) => Err(Refusal::Unavailable),
        }
    }
}

/// The view of one usage type from PostgreSQL's current pool, less the units that are unspent here. `None`: nothing was
/// requested yet.
fn stored_view(
    account: &AccountCounters,
    state: &AccountState,
    usage_type: UsageType,
    pool: Option<Pool>,
) -> QuotaView {
    let (terms, period) = (state.terms(usage_type), state.current_plan.period);
    if terms.mode != Mode::Limited {
        return view::unlimited_view(terms, period);
    }
    let unopened = Pool {
        limit: terms.limit,
        granted: 0,
    };
    let unspent = account.counter(PoolType::Limited(usage_type)).unspent_units(&period);
    let seen = Seen {
        held: unspent,
        pool: pool.unwrap_or(unopened),
        is_current: true,
    };
    view::view(terms, period, seen)
}
