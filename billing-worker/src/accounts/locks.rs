//! The locks that order writers of one account.

use schema::AccountId;
use sqlx::{Postgres, Transaction};

use crate::error::Error;

/// Takes the turn of an account's subscription: whoever reads or changes it in Stripe has it from before the first call to the
/// commit. Not the account's row: gateways share that to open pools, and Stripe may take its time.
pub async fn lock_subscription(tx: &mut Transaction<'_, Postgres>, id: AccountId) -> Result<(), Error> {
    sqlx::query!(
        "select pg_advisory_xact_lock(hashtextextended('subscription of ' || $1::text, 0))",
        id.to_string()
    )
    .execute(&mut **tx)
    .await?;
    sqlx::query_scalar!("select id from accounts where id = $1", id.0)
        .fetch_optional(&mut **tx)
        .await?
        .map(|_| ())
        .ok_or_else(|| Error::UnknownAccount(id.to_string()))
}

/// Takes the account's lock, which every writer of its subscription or limits holds until its commit. Rows that refer to the
/// account may be written meanwhile.
pub async fn lock(tx: &mut Transaction<'_, Postgres>, id: AccountId) -> Result<(), Error> {
    sqlx::query_scalar!("select id from accounts where id = $1 for no key update", id.0)
        .fetch_optional(&mut **tx)
        .await?
        .map(|_| ())
        .ok_or_else(|| Error::UnknownAccount(id.to_string()))
}
