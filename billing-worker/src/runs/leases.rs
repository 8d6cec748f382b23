//! Live leases of a run that is over: decides how many units each returns, and returns them.

use std::time::Duration;

use anyhow::{Context, Result};
use protocol::give_back::{LeaseRow, LeaseState, Spent};
use quota_store::leases::{self, Settled};
use schema::{AccountId, LeaseId, RunId};
use sqlx::PgPool;
use tokio::time::timeout;

/// Leases per query to ClickHouse and per transaction.
pub const PAGE: i64 = 500;

/// How long after its grant a lease can be counted. Rows are deleted after at least 28 days from the day of the request, which
/// may be five days before the row was stored; three more days allow for clock differences.
pub const COUNTED_FOR: Duration = Duration::from_secs(20 * 24 * 3_600);

/// For one statement, and for one transaction.
const PATIENCE: Duration = Duration::from_secs(30);

/// A live lease. Its run returns no more units, so only settling changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    pub id: LeaseId,
    pub account: AccountId,
    pub units: i64,
    /// Units that the run itself returned.
    pub returned: i64,
    /// Its first rows may have been deleted.
    pub is_old: bool,
}

/// How a lease is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseResult {
    /// This many units were spent; the rest is returned.
    Spent(i64),
    /// More units were counted than it had, by this many.
    Overspent(i64),
    /// Too old to be counted: it counts as fully spent.
    Uncounted,
}

impl Lease {
    /// `counted`: units of its events. None of them is negative, since corrections have no lease.
    pub fn result(&self, counted: i64) -> LeaseResult {
        if self.is_old {
            return LeaseResult::Uncounted;
        }
        match self.row().spent(counted) {
            Spent::Units(units) => LeaseResult::Spent(units),
            Spent::TooMany(units) => LeaseResult::Overspent(units),
        }
    }

    fn row(&self) -> LeaseRow {
        LeaseRow {
            units: self.units,
            returned: self.returned,
            state: LeaseState::Live,
        }
    }

    /// Units that the run had not returned.
    pub fn had(&self) -> i64 {
        self.row().had()
    }
}

/// Reads the run's live leases after `after`, ordered by account.
pub async fn page(db: &PgPool, run: RunId, after: Option<&Lease>) -> Result<Vec<Lease>> {
    let after = after.map(|lease| (lease.account, lease.id));
    let rows = leases::live(db, run, after, COUNTED_FOR, PAGE);
    let rows = timeout(PATIENCE, rows).await.context("reading leases")?;
    let rows = rows.context("reading leases")?;
    Ok(rows
        .into_iter()
        .map(|row| Lease {
            id: row.id,
            account: row.account,
            units: row.units,
            returned: row.returned_units,
            is_old: row.is_old,
        })
        .collect())
}

/// Settles leases with their spent units and returns the rest. Only changes leases that are still live, of a run that is being
/// ended, so repeated or concurrent calls settle each lease once.
pub async fn settle(db: &PgPool, run: RunId, spent: &[(LeaseId, i64)]) -> Result<Settled> {
    if spent.is_empty() {
        return Ok(Settled::default());
    }
    timeout(PATIENCE, settle_now(db, run, spent))
        .await
        .context("settling leases")?
        .context("settling leases")
}

async fn settle_now(db: &PgPool, run: RunId, spent: &[(LeaseId, i64)]) -> sqlx::Result<Settled> {
    let mut connection = db.acquire().await?;
    leases::settle(&mut connection, run, spent).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_returns_the_units_that_were_not_counted() {
        let lease = |returned, is_old| Lease {
            id: LeaseId::NIL,
            account: AccountId::NIL,
            units: 100,
            returned,
            is_old,
        };
        for (returned, counted, expected) in [
            (0, 0, LeaseResult::Spent(0)),
            (0, 100, LeaseResult::Spent(100)),
            (0, 101, LeaseResult::Overspent(1)),
            (40, 60, LeaseResult::Spent(60)),
            // Units that the run returned but had spent.
            (40, 61, LeaseResult::Overspent(1)),
            (100, 0, LeaseResult::Spent(0)),
        ] {
            assert_eq!(lease(returned, false).result(counted), expected, "{returned} {counted}");
        }
        assert_eq!(lease(0, true).result(0), LeaseResult::Uncounted);
    }
}
