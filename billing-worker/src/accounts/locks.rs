//! The lock that orders writers of one account. It is held for the length of a database transaction, never across a call to another
//! system: see [`crate::subscriptions::lease`].

use schema::AccountId;
use sqlx::{Postgres, Transaction};

use crate::error::Error;

/// Takes the account's lock, which every writer of its subscription or limits holds until its commit. Rows that refer to the
/// account may be written meanwhile.
pub async fn lock(tx: &mut Transaction<'_, Postgres>, id: AccountId) -> Result<(), Error> {
    sqlx::query_scalar!("select id from accounts where id = $1 for no key update", id.0)
        .fetch_optional(&mut **tx)
        .await?
        .map(|_| ())
        .ok_or_else(|| Error::UnknownAccount(id.to_string()))
}
