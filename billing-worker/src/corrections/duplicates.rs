//! Units of duplicates go back to the pool: an event that the ingestor dropped, because its `Idempotency-Key` had counted
//! already, was paid out of a lease like any other.
//!
//! The lease has spent those units for good: a gateway that lives does not give them back, and settling a dead one counts
//! dropped events as spent. So they come back here and nowhere else. Where no lease paid (overage, metered) nothing does:
//! the sums in ClickHouse lack the duplicate anyhow.
//!
//! # Once, whatever dies in between
//! The ingestor stores the duplicates of a shard in the order of the stream, so one cursor a shard says how far they were
//! read. Units, ledger row (`duplicate_returns`, by position) and cursor are one transaction, under the lock of the cursor:
//! a worker that dies before the commit has given back nothing, and another worker waits or finds the rows.
//!
//! An audit that finds a duplicate missing stores it late, behind the cursor: hence the [`sweep`] over the last days, which
//! the ledger keeps from giving anything back again.

mod ledger;
mod stored;

use std::collections::BTreeMap;

use anyhow::Result;
use clickhouse::Client;
use schema::{AccountId, announcement::Announcement};
use sqlx::PgPool;
use tracing::info;

use crate::administration::announce::Announcer;
use stored::Duplicate;

/// Duplicates given back in one transaction.
const PAGE: u64 = 500;
/// Pages of one shard that one step takes at the most, so that one account's misuse holds up no other shard.
const PAGES: u32 = 20;

/// Cheap to clone.
#[derive(Clone)]
pub struct Returns {
    pub db: PgPool,
    pub clickhouse: Client,
    pub announcer: Announcer,
}

/// What one look at the duplicates did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Returned {
    pub duplicates: u64,
    pub units: i64,
    /// There is more than one step takes.
    pub more: bool,
}

/// Part of a shard's key in `usage_duplicates`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shard {
    pub generation: u32,
    pub shard: u16,
}

/// Where a duplicate stands in its shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    pub stream_seq: u64,
    pub idx: u32,
}

/// Gives back the units of what was stored since the last step.
pub async fn step(returns: &Returns) -> Result<Returned> {
    let cursors = ledger::cursors(&returns.db).await?;
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
            cursor = end.place();
            returns.give_back(shard, &page, Some(cursor), &mut all).await?;
        }
    }
    Ok(all)
}

/// Looks through all that was stored in the last days, whatever the cursors say, and forgets rows of the ledger that this
/// cannot find any more.
pub async fn sweep(returns: &Returns) -> Result<Returned> {
    let mut all = Returned::default();
    for (shard, last) in stored::last_of_each(&returns.clickhouse).await? {
        let mut cursor = Place::default();
        while cursor < last {
            let page = stored::lately(&returns.clickhouse, shard, cursor, PAGE).await?;
            let Some(end) = page.last() else {
                break;
            };
            cursor = end.place();
            returns.give_back(shard, &page, None, &mut all).await?;
        }
    }
    ledger::forget(&returns.db).await?;
    Ok(all)
}

impl Returns {
    async fn give_back(
        &self,
        shard: Shard,
        page: &[Duplicate],
        cursor: Option<Place>,
        all: &mut Returned,
    ) -> Result<()> {
        let returned = ledger::give_back(&self.db, shard, page, cursor).await?;
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
