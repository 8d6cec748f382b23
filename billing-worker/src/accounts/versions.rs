//! The rows of plan versions. They are written once, and never changed.

use std::{collections::HashMap, sync::Arc};

use schema::{Catalogue, PlanTerms, PlanVersion};
use serde::Serialize;
use sqlx::{PgExecutor, Postgres, Transaction, types::Json};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::error::Error;

/// Who says that the plan has these terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Catalogue,
    /// `plan_limits`, before there were versions.
    Stored,
    /// A price in Stripe, which was made before there were versions.
    Stripe,
}

impl Origin {
    fn as_str(self) -> &'static str {
        match self {
            Self::Catalogue => "catalogue",
            Self::Stored => "stored",
            Self::Stripe => "stripe",
        }
    }
}

/// A version as operators see it.
#[derive(Clone, Debug, Serialize)]
pub struct VersionView {
    /// `pro@2`
    pub name: String,
    pub plan: String,
    pub version: i32,
    pub price_cents: i64,
    /// New subscribers get it.
    pub is_current: bool,
    /// Accounts that pay for it.
    pub accounts: i64,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

/// All versions, by plan; those that were first come first.
pub async fn list(db: impl PgExecutor<'_>) -> Result<Vec<VersionView>, Error> {
    let versions = sqlx::query_as!(
        VersionView,
        r#"select v.plan_id || '@' || v.version as "name!", v.plan_id as plan, v.version, v.price_cents, v.is_current, v.created_at,
                  (select count(*) from subscriptions s where s.is_current and s.version_id = v.id) as "accounts!"
           from plan_versions v join plans p on p.id = v.plan_id order by p.position, v.version"#
    )
    .fetch_all(db)
    .await?;
    Ok(versions)
}

/// Returns the plan's version with these terms, and makes it if there is none. The plan must be stored.
pub async fn ensure(
    tx: &mut Transaction<'_, Postgres>,
    plan: &str,
    terms: &PlanTerms,
    origin: Origin,
) -> Result<Uuid, Error> {
    // Versions of a plan are numbered one after the other.
    sqlx::query!("select id from plans where id = $1 for no key update", plan)
        .fetch_optional(&mut **tx)
        .await?;
    let hash = terms.hash();
    let known = sqlx::query_scalar!(
        "select id from plan_versions where plan_id = $1 and terms_hash = $2",
        plan,
        &hash[..]
    )
    .fetch_optional(&mut **tx)
    .await?;
    if let Some(known) = known {
        return Ok(known);
    }
    let id = Uuid::now_v7();
    let positive = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
    sqlx::query!(
        "insert into plan_versions (id, plan_id, version, terms_hash, origin, price_cents, retention_days, burst_per_second,
             burst_size, prices, usage_billing)
         select $1::uuid, $2::text, coalesce(max(version), 0) + 1, $3::bytea, $4::text, $5::bigint, $6::int, $7::int, $8::int,
             $9::jsonb, $10::text
             from plan_versions where plan_id = $2::text",
        id,
        plan,
        &hash[..],
        origin.as_str(),
        terms.price_cents,
        terms.retention_days.map(positive),
        terms.burst.map(|burst| positive(burst.per_second.get())),
        terms.burst.map(|burst| positive(burst.size.get())),
        Json(&terms.prices) as _,
        terms.usage_billing.as_str()
    )
    .execute(&mut **tx)
    .await?;
    let usage = || terms.usage.iter();
    let usage_types: Vec<String> = usage().map(|(usage_type, _)| usage_type.clone()).collect();
    let limits: Vec<i64> = usage().map(|(_, allowance)| allowance.limit).collect();
    let modes: Vec<String> = usage()
        .map(|(_, allowance)| allowance.mode.as_str().to_owned())
        .collect();
    let prices: Vec<i64> = usage().map(|(_, allowance)| allowance.unit_price_micros).collect();
    sqlx::query!(
        "insert into plan_version_limits (version_id, usage_type, limit_units, mode, unit_price_micros, unit_prices)
         select $1::uuid, l.*, coalesce($6::jsonb -> l.usage_type, '{}')
         from unnest($2::text[], $3::bigint[], $4::text[], $5::bigint[]) as l (usage_type, limit_units, mode, unit_price_micros)",
        id,
        &usage_types,
        &limits,
        &modes,
        &prices,
        Json(&terms.unit_prices) as _
    )
    .execute(&mut **tx)
    .await?;
    Ok(id)
}

/// New subscribers get this version. Returns whether it is a change.
pub async fn make_current(tx: &mut Transaction<'_, Postgres>, plan: &str, id: Uuid) -> Result<bool, Error> {
    // Two statements: at no moment may two versions be current.
    sqlx::query!(
        "update plan_versions set is_current = false where plan_id = $1 and is_current and id <> $2",
        plan,
        id
    )
    .execute(&mut **tx)
    .await?;
    let made = sqlx::query!(
        "update plan_versions set is_current = true where id = $1 and not is_current",
        id
    )
    .execute(&mut **tx)
    .await?;
    Ok(made.rows_affected() > 0)
}

/// The versions with these ids.
pub async fn read(db: impl PgExecutor<'_>, ids: &[Uuid]) -> Result<HashMap<Uuid, Arc<PlanVersion>>, Error> {
    let rows = sqlx::query!(
        r#"select version_id as "id!", plan_id as "plan!", version as "number!", terms as "terms!: Json<PlanTerms>"
           from plan_version_terms where version_id = any($1)"#,
        ids
    )
    .fetch_all(db)
    .await?;
    let version = |id, plan, number, terms: Json<PlanTerms>| {
        let terms = terms.0;
        Arc::new(PlanVersion {
            id,
            plan,
            number,
            terms,
        })
    };
    let versions = rows.into_iter();
    Ok(versions
        .map(|row| (row.id, version(row.id, row.plan, row.number, row.terms)))
        .collect())
}

/// All versions of a plan, the oldest first.
pub async fn of_plan(db: impl PgExecutor<'_>, plan: &str) -> Result<Vec<PlanVersion>, Error> {
    let rows = sqlx::query!(
        r#"select version_id as "id!", plan_id as "plan!", version as "number!", terms as "terms!: Json<PlanTerms>"
           from plan_version_terms where plan_id = $1 order by version"#,
        plan
    )
    .fetch_all(db)
    .await?;
    let versions = rows.into_iter().map(|row| PlanVersion {
        id: row.id,
        plan: row.plan,
        number: row.number,
        terms: row.terms.0,
    });
    Ok(versions.collect())
}

/// The versions of the catalogue's plans, by plan. They are made where they are missing. A plan that is not stored yet has none.
pub async fn of_catalogue(
    tx: &mut Transaction<'_, Postgres>,
    catalogue: &Catalogue,
) -> Result<HashMap<String, Uuid>, Error> {
    let stored: Vec<String> = sqlx::query_scalar!("select id from plans").fetch_all(&mut **tx).await?;
    let mut versions = HashMap::new();
    for plan in catalogue.plans().iter().filter(|plan| stored.contains(&plan.id)) {
        let id = ensure(tx, &plan.id, &PlanTerms::of(catalogue, plan), Origin::Catalogue).await?;
        versions.insert(plan.id.clone(), id);
    }
    Ok(versions)
}
