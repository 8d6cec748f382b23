//! Usage under a spend cap: the units at hand, and what is tried before a request is refused.
//!
//! All usage types that are billed share the cap. So units of other types that nobody has spent are given back first, here and at
//! other gateways, before a request is refused.

use std::time::Instant;

use futures_util::future::join_all;
use protocol::spend::{self, Line};
use quota_store::caps;
use schema::{PoolType, UsageType, pool_type::billed_name};
use tokio::time::timeout;

use super::{
    admission::{Admission, Refusal},
    counter::RecallFound,
    counters::AccountCounters,
    quotas::Quotas,
    reservation::Hit,
    view::{self, CapView, QuotaView, Spent},
};
use crate::accounts::{account::AccountState, spend::Spend};

impl Quotas {
    /// The fast path of usage under a cap. `None`: the units at hand do not cover the cost, and there may be more.
    pub(super) fn capped_at_hand(
        &self,
        account: &AccountCounters,
        state: &AccountState,
        spend: &Spend,
        usage_type: UsageType,
        cost: i64,
    ) -> Option<Result<Admission, Refusal>> {
        let counter = account.counter(PoolType::Billed(usage_type));
        let Some(hit) = counter.spend(&spend.segment, cost) else {
            let spent = counter.refusals().known_spent(&spend.segment, cost)?;
            return Some(Err(reached(state, usage_type, spent)));
        };
        if hit.renew {
            counter.request_service();
        }
        self.inner.requests.metrics.admitted_local.inc();
        Some(Ok(admission(state, usage_type, hit)))
    }

    /// Gives back what this gateway holds of the other billed usage types. Returns whether PostgreSQL has some units back.
    pub(super) async fn return_others(&self, account: &AccountCounters, spend: &Spend, usage_type: UsageType) -> bool {
        let patience = self.inner.recalls.patience();
        let others = account.billed().filter(|(pool, _)| pool.usage_type() != usage_type);
        let found = others.map(|(_, counter)| {
            counter.note_recall(Instant::now(), patience);
            counter.recall(spend.segment.start)
        });
        let returning = found.filter_map(|found| match found {
            RecallFound::Units(result) => Some(result),
            RecallFound::Nothing | RecallFound::TooMany => None,
        });
        let returned = timeout(
            self.inner.settings.transaction_deadline,
            join_all(returning.collect::<Vec<_>>()),
        )
        .await;
        returned.is_ok_and(|results| results.contains(&Ok(true)))
    }

    /// Checks whether `cost` units under a cap would be admitted now.
    pub(super) async fn check_capped(
        &self,
        account: &AccountCounters,
        state: &AccountState,
        spend: &Spend,
        usage_type: UsageType,
        cost: i64,
    ) -> Result<QuotaView, Refusal> {
        let quota = view::unlimited_view(state.terms(usage_type), state.current_plan.period);
        let counter = account.counter(PoolType::Billed(usage_type));
        if counter.open_units(&spend.segment) >= cost {
            return Ok(quota);
        }
        if let Some(spent) = counter.refusals().known_spent(&spend.segment, cost) {
            return Err(reached(state, usage_type, spent));
        }
        let read = async {
            let mut connection = self.inner.pool.acquire().await?;
            caps::of_period(&mut connection, account.account.id, spend.period_start).await
        };
        let (cap, pools) = self.answered(read).await?;
        // Without a cap, gateways are about to be told.
        let Some(cap_cents) = cap else {
            return Ok(quota);
        };
        let name = billed_name(usage_type.name());
        let is_ours =
            |pool: &caps::BilledPool| pool.key.usage_type == name && pool.key.period_start == spend.segment.start;
        let mut lines: Vec<Line> = pools.iter().map(|pool| pool.line).collect();
        let number = pools.iter().position(is_ours).unwrap_or_else(|| {
            let rate = spend.rate(usage_type);
            lines.push(Line {
                units: 0,
                included: rate.map_or(0, |rate| rate.included),
                unit_price_micros: rate.map_or(0, |rate| rate.unit_price_micros),
            });
            lines.len() - 1
        });
        let spent = Spent {
            cap_cents,
            used_cents: spend::cents(&lines),
        };
        // What this gateway holds is not spent yet.
        for (pool, stored) in lines.iter_mut().zip(&pools) {
            let ours = account.billed().find(|(pool, _)| pool.name() == stored.key.usage_type);
            let unspent = ours.map_or(0, |(_, counter)| counter.unspent_units(&spend.segment));
            if stored.key.period_start == spend.segment.start {
                pool.units = pool.units.saturating_sub(unspent);
            }
        }
        match spend::affordable(&lines, number, cap_cents) >= cost {
            true => Ok(quota),
            false => Err(reached(state, usage_type, spent)),
        }
    }
}

/// An admission with units under the cap. The client sees the same quota as without a cap.
pub(super) fn admission(state: &AccountState, usage_type: UsageType, hit: Hit) -> Admission {
    let quota = view::unlimited_view(state.terms(usage_type), state.current_plan.period);
    Admission::leased(usage_type, hit.reservation, &state.current_plan, quota)
}

/// The refusal of a request that the cap does not allow.
pub(super) fn reached(state: &AccountState, usage_type: UsageType, spent: Spent) -> Refusal {
    let quota = view::unlimited_view(state.terms(usage_type), state.current_plan.period);
    Refusal::SpendCapReached(CapView {
        quota: QuotaView { remaining: 0, ..quota },
        spent,
    })
}
