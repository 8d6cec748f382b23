//! The prices in Stripe that subscriptions have or may get: they stay active.

use std::collections::{BTreeSet, HashMap};

use sqlx::PgPool;

use crate::{error::Error, stripe::catalogue::KnownPrices};

/// For a comparison of Stripe with the catalogue.
pub async fn known(db: &PgPool) -> Result<KnownPrices, Error> {
    Ok(KnownPrices {
        in_use: in_use(db).await?,
        versions: versions(db).await?,
    })
}

/// The beginning of the hash of the terms, by id of a plan's own price.
pub(super) async fn versions(db: &PgPool) -> Result<HashMap<String, String>, Error> {
    let rows = sqlx::query!(
        r#"select p.price_id, encode(substring(v.terms_hash for 8), 'hex') as "version!"
           from plan_version_prices p join plan_versions v on v.id = p.version_id where p.usage_type is null"#
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(|row| (row.price_id, row.version)).collect())
}

/// Ids of the prices of subscriptions that have not ended, of what is planned for them, of changes that are not complete, and of
/// open checkouts.
async fn in_use(db: &PgPool) -> Result<BTreeSet<String>, Error> {
    let prices = sqlx::query_scalar!(
        r#"select i.price_id as "price_id!" from subscription_items i join subscriptions s on s.id = i.subscription_id
               where s.ended_at is null
           union select unnest(then_price_ids) from subscriptions where ended_at is null
           union select unnest(price_ids) from checkout_sessions where ended_at is null
           union select jsonb_path_query(args, '$.**.plan[*][0] ? (@.type() == "string")') #>> '{}' from stripe_tasks
               where state <> 'done'
           union select args ->> 'price' from stripe_tasks where kind = 'complete_upgrade' and state <> 'done'
           union select jsonb_array_elements_text(args -> 'metered') from stripe_tasks
               where kind = 'complete_upgrade' and state <> 'done'"#
    )
    .fetch_all(db)
    .await?;
    Ok(prices.into_iter().collect())
}

/// Fails if the prices of a planned change are not known here, because no worker of this release has read it yet.
pub async fn refuse_unknown(db: &PgPool) -> Result<(), Error> {
    let unknown = sqlx::query_scalar!(
        r#"select count(*) as "unknown!" from subscriptions
           where ended_at is null and then_plan_id is not null and then_price_ids = '{}'"#
    )
    .fetch_one(db)
    .await?;
    match unknown {
        0 => Ok(()),
        unknown => Err(Error::Conflict(format!(
            "the prices of {unknown} planned changes are not known yet: run `billing-worker stripe compare` first"
        ))),
    }
}
