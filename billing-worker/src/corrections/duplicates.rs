//! Returns the units of duplicates to their pools. When the ingestor drops an event because its `Idempotency-Key` was counted
//! before, a lease has already paid for the event.
//!
//! The lease counts these units as spent: a live gateway does not return them, and settling a dead gateway counts dropped
//! events as spent. So they are returned here and nowhere else. Events without a lease (overage, metered) need nothing: the
//! sums in ClickHouse do not contain the duplicate.
//!
//! # Units are returned once, even after crashes
//! The ingestor stores the duplicates of a shard in stream order, so one cursor per shard records the progress. Units, row
//! (`duplicate_returns`, by position) and cursor change in one transaction, under the lock of the cursor: a worker that dies
//! before the commit has returned nothing, and another worker waits or finds the rows.
//!
//! If an audit finds a missing duplicate, it stores it late, before the cursor. Therefore [`sweep`] rereads the last days; the
//! rows prevent it from returning units twice.

mod repository;
mod stored;

use std::collections::BTreeMap;

use anyhow::Result;
use clickhouse::Client;
use schema::{AccountId, announcement::Announcement};
use sqlx::PgPool;
use tracing::info;

use crate::administration::announce::Announcer;
use stored::Duplicate;

/// Duplicates per transaction.
const PAGE: u64 = 500;
/// Maximum number of pages of one shard per step, so that one account with many duplicates does not delay other shards.
const PAGES: u32 = 20;

/// Cheap to clone.
#[derive(Clone)]
pub struct Returns {
    pub db: PgPool,
    pub clickhouse: Client,
    pub announcer: Announcer,
}

/// The result of one step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Returned {
    pub duplicates: u64,
    pub units: i64,
    /// The step reached its limit: there is more to do.
    pub more: bool,
}

/// Part of a shard's key in `usage_duplicates`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shard {
    pub generation: u32,
    pub shard: u16,
}

/// The position of a duplicate in its shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamPosition {
    pub stream_seq: u64,
    pub idx: u32,
}

/// Returns the units of duplicates that were stored since the last step.
pub async fn step(returns: &Returns) -> Result<Returned> {
    let cursors = repository::cursors(&returns.db).await?;
    let mut all = Returned::default();
    for (shard, last) in stored::last_of_each(&returns.clickhouse).await? {
        let mut cursor = cursors.get(&shard).copied().unwrap_or_default();
        let mut pages = 0;
        while cursor < last {
            if pages == PAGES {
                all.more = true;
                break;
            }
            pages += 1;
            let page = stored::behind(&returns.clickhouse, shard, cursor, PAGE).await?;
            let Some(end) = page.last() else {
                break;
            };
            cursor = end.position();
            returns.give_back(shard, &page, Some(cursor), &mut all).await?;
        }
    }
    Ok(all)
}

/// Rereads all duplicates of the last days, independent of the cursors, and deletes rows of `duplicate_returns` that are too old
/// for this.
pub async fn sweep(returns: &Returns) -> Result<Returned> {
    let mut all = Returned::default();
    for (shard, last) in stored::last_of_each(&returns.clickhouse).await? {
        let mut cursor = StreamPosition::default();
        while cursor < last {
            let page = stored::lately(&returns.clickhouse, shard, cursor, PAGE).await?;
            let Some(end) = page.last() else {
                break;
            };
            cursor = end.position();
            returns.give_back(shard, &page, None, &mut all).await?;
        }
    }
    repository::forget(&returns.db).await?;
    Ok(all)
}

impl Returns {
    async fn give_back(
        &self,
        shard: Shard,
        page: &[Duplicate],
        cursor: Option<StreamPosition>,
        all: &mut Returned,
    ) -> Result<()> {
        let returned = repository::give_back(&self.db, shard, page, cursor).await?;
        let mut units: BTreeMap<AccountId, i64> = BTreeMap::new();
        for (account, of_event) in &returned {
            *units.entry(*account).or_default() += of_event;
        }
        units.retain(|_, units| *units > 0);
        let announcements = units
            .keys()
            .map(|account| Announcement::UnitsReturned { account_id: *account });
        self.announcer.announce_all(&announcements.collect::<Vec<_>>()).await;
        for (account, units) in &units {
            info!(account.id = %account, units, "units of duplicates went back to the pool");
        }
        all.duplicates += returned.len() as u64;
        all.units += units.values().sum::<i64>();
        Ok(())
    }
}
