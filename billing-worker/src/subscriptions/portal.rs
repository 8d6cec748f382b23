//! The configuration of Stripe's customer portal that `stripe sync` made. Its id is stored, so a portal session needs no search in
//! Stripe.

use sqlx::PgPool;

use super::billing::Billing;
use crate::{error::Error, stripe::catalogue};

/// The stored id.
pub async fn configuration(db: &PgPool, livemode: bool) -> Result<Option<String>, Error> {
    let id = sqlx::query_scalar!(
        "select id from stripe_objects where name = 'portal_configuration' and livemode = $1",
        livemode
    );
    Ok(id.fetch_optional(db).await?)
}

/// Stores the id of the configuration that Stripe has now.
pub async fn remember(billing: &Billing) -> Result<(), Error> {
    let stripe = billing.stripe()?;
    if let Some(found) = catalogue::portal(stripe).await?.filter(|found| found.active) {
        store(&billing.admin.db, stripe.is_live(), &found.id).await?;
    }
    Ok(())
}

pub async fn store(db: &PgPool, livemode: bool, id: &str) -> Result<(), Error> {
    sqlx::query!(
        "insert into stripe_objects (name, livemode, id) values ('portal_configuration', $1, $2)
         on conflict (name, livemode) do update set id = excluded.id, stored_at = now()",
        livemode,
        id
    )
    .execute(db)
    .await?;
    Ok(())
}
