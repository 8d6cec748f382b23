//! Compares usage with limits and stores the notices that are due. A step may be interrupted at any time and may run in several
//! workers at once: each notice is stored once.

use std::{collections::HashMap, sync::Arc};

use anyhow::Result;
use clickhouse::Client;
use schema::Catalogue;
use sqlx::PgPool;
use tracing::info;

use super::{
    message::Reached,
    outbox,
    threshold::Thresholds,
    usage::{self, Counter, Limited},
};

/// Pools per page. One query names all their accounts.
const POOLS_A_PAGE: usize = 1_000;
/// Counters per page from ClickHouse, which sums all of them again for the next page.
const COUNTERS_A_PAGE: usize = 10_000;

pub struct Watch {
    pub db: PgPool,
    pub clickhouse: Client,
    pub catalogue: Arc<Catalogue>,
    pub thresholds: Thresholds,
}

impl Watch {
    /// Compares all running periods once and returns the new notices. Fails if ClickHouse or PostgreSQL is unavailable: without a
    /// count there is no notice.
    pub async fn step(&self, now: i64) -> Result<Vec<Reached>> {
        let mut new = self.pooled(now).await?;
        new.extend(self.overage(now).await?);
        Ok(new)
    }

    /// Usage that is refused above its limit.
    async fn pooled(&self, now: i64) -> Result<Vec<Reached>> {
        let (mut after, mut new) = (Counter::FIRST, Vec::new());
        loop {
            let page = i64::try_from(POOLS_A_PAGE)?;
            let candidates = usage::candidates(&self.db, &self.thresholds, &after, now, page).await?;
            let limited = usage::limited(&self.db, &self.catalogue, &candidates, now).await?;
            let stored = usage::stored(&self.db, &self.clickhouse, &limited).await?;
            new.extend(self.write(&limited, &stored, now).await?);
            match candidates.into_iter().nth(POOLS_A_PAGE - 1) {
                Some(last) => after = last,
                None => return Ok(new),
            }
        }
    }

    /// Usage that is billed above its limit. Costs nothing if no plan has such usage.
    async fn overage(&self, now: i64) -> Result<Vec<Reached>> {
        let types = usage::overage(&self.db, &self.catalogue, &self.thresholds).await?;
        let (mut after, mut new) = (Counter::FIRST, Vec::new());
        if types.is_empty() {
            return Ok(new);
        }
        let since = usage::running_since(&self.db, now).await?;
        loop {
            let page = usage::counted(&self.clickhouse, &types, since, &after, COUNTERS_A_PAGE).await?;
            let counters: Vec<_> = page.iter().map(|(counter, _)| counter.clone()).collect();
            let limited = usage::limited(&self.db, &self.catalogue, &counters, now).await?;
            new.extend(self.write(&limited, &page.into_iter().collect(), now).await?);
            match counters.into_iter().nth(COUNTERS_A_PAGE - 1) {
                Some(last) => after = last,
                None => return Ok(new),
            }
        }
    }

    async fn write(&self, limited: &[Limited], units: &HashMap<Counter, i64>, now: i64) -> Result<Vec<Reached>> {
        let reached = limited.iter().flat_map(|limited| {
            let current_usage = units.get(&limited.counter()).copied().unwrap_or(0);
            let reached = self.thresholds.reached(current_usage, limited.limit);
            reached.map(move |threshold_percent| Reached {
                account: limited.account,
                usage_type: limited.usage_type,
                period: limited.period,
                threshold_percent,
                current_usage,
                limit: limited.limit,
            })
        });
        let new = outbox::add(&self.db, reached.collect(), now).await?;
        for reached in &new {
            info!(
                account.id = %reached.account, usage_type = %reached.usage_type,
                threshold_percent = reached.threshold_percent, current_usage = reached.current_usage,
                limit = reached.limit, "usage reached a threshold"
            );
        }
        Ok(new)
    }
}
