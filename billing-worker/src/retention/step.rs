//! The daily step: push the rules, then delete.

use anyhow::Result;
use clickhouse::Client;
use schema::Catalogue;
use sqlx::PgPool;
use time::OffsetDateTime;
use tracing::{debug, info};
use uuid::Uuid;

use super::{deletion, push::push_accounts};

/// The result of one step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retained {
    /// Accounts whose retention was pushed. The rows of other accounts are kept forever.
    pub accounts: u64,
    /// Rows deleted.
    pub rows: u64,
    /// The step reached its limit: there is more to delete, and the next step may follow at once.
    pub more: bool,
}

/// Pushes the rule of every account, then deletes by these rules. One worker calls it once a day; two workers at once or an
/// interrupted step do no harm. Fails if a sum differs afterwards, which an operator must look into.
pub async fn step(db: &PgPool, clickhouse: &Client, catalogue: &Catalogue, now: OffsetDateTime) -> Result<Retained> {
    let Some(closed_before) = deletion::closed_before(clickhouse, now).await? else {
        debug!("no day is closed, nothing to delete");
        return Ok(Retained::default());
    };
    let push = Uuid::now_v7();
    let accounts = push_accounts(db, clickhouse, catalogue, push, now).await?;
    let deleted = deletion::delete(clickhouse, push, closed_before).await?;
    info!(accounts, rows = deleted.rows, more = deleted.more, %closed_before, "deleted rows whose retention is over");
    Ok(Retained {
        accounts,
        rows: deleted.rows,
        more: deleted.more,
    })
}
