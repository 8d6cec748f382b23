//! Rows of keys and accounts in PostgreSQL.

use schema::{
    AccountId, Catalogue, KeyId, Period, Scopes, SpendCap, SubscriptionId,
    api_key::KeyHash,
    subscription::{Subscription, SubscriptionStatus},
};
use sqlx::PgPool;
use time::OffsetDateTime;
use tracing::error;
use uuid::Uuid;

use super::{account::Facts, key::StoredKey, versions::Versions};

/// Returns the existing keys among these ids.
pub(crate) async fn keys(pool: &PgPool, ids: &[KeyId]) -> Result<Vec<(KeyId, AccountId, StoredKey)>, sqlx::Error> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    let rows = sqlx::query!(
        "select id, account_id, secret_sha256, expires_at, revoked_at, scopes from api_keys where id = any($1)",
        &ids
    )
    .fetch_all(pool)
    .await?;
    let keys = rows.into_iter().filter_map(|row| {
        let stored = StoredKey {
            hash: KeyHash::from_stored(&row.secret_sha256)?,
            expires_at: row.expires_at.map(OffsetDateTime::unix_timestamp),
            // Only whether it is set matters: the clocks of the database and of this gateway differ, and a revoked key is never
            // valid again.
            revoked: row.revoked_at.is_some(),
            scopes: Scopes::from_stored(&row.scopes),
        };
        Some((KeyId(row.id), AccountId(row.account_id), stored))
    });
    Ok(keys.collect())
}

/// Returns the existing accounts among these ids. One statement reads all facts of an account at the same moment, but for the
/// terms of its plan version, which never change.
pub(super) async fn accounts(
    pool: &PgPool,
    versions: &Versions,
    ids: &[AccountId],
    catalogue: &Catalogue,
) -> Result<Vec<(AccountId, Facts)>, sqlx::Error> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    let rows = sqlx::query!(
        r#"select a.id as "id!", a.status as "status!",
                  s.id as "subscription_id?", s.plan_id as "plan_id?", s.status as "subscription_status?",
                  s.period_start as "period_start?", s.period_end as "period_end?",
                  s.segment_start as "segment_start?", s.billing_anchor as "billing_anchor?", s.ends_at as "ends_at?",
                  s.then_plan_id as "then_plan_id?", s.version_id as "version_id?",
                  s.then_version_id as "then_version_id?", s.grace_until as "grace_until?", s.paid_until as "paid_until?",
                  s.updated_at as "subscription_changed?", i.hosted_invoice_url as "owed_invoice_url?",
                  s.stripe_subscription_id is not null as "in_stripe!", s.currency as "currency?",
                  array(select o.usage_type from limit_overrides o
                        where o.account_id = a.id order by o.usage_type) as "override_types!",
                  array(select o.limit_units from limit_overrides o
                        where o.account_id = a.id order by o.usage_type) as "override_limits!",
                  c.cents as "cap_cents?", c.revision as "cap_revision?"
           from accounts a
           left join spend_caps c on c.account_id = a.id
           left join subscriptions s on s.account_id = a.id and s.is_current
           left join stripe_invoices i on i.id = s.owed_invoice_id
           where a.id = any($1)"#,
        &ids
    )
    .fetch_all(pool)
    .await?;
    let ids: Vec<Option<Uuid>> = rows
        .iter()
        .flat_map(|row| [row.version_id, row.then_version_id])
        .collect();
    versions.load(pool, ids.into_iter().flatten().collect()).await?;
    let accounts = rows.into_iter().map(|row| {
        let mut overrides: Box<[Option<i64>]> = vec![None; catalogue.usage_types().len()].into();
        for (name, limit) in row.override_types.iter().zip(&row.override_limits) {
            if let Some(usage_type) = catalogue.usage_type(name) {
                overrides[usage_type.index()] = Some(*limit);
            }
        }
        let id = AccountId(row.id);
        let seconds = |at: Option<OffsetDateTime>| at.map(OffsetDateTime::unix_timestamp);
        let subscription = || {
            let status = row.subscription_status.as_deref()?;
            Some(Subscription {
                id: SubscriptionId(row.subscription_id?),
                plan: row.plan_id.clone()?,
                version: row.version_id.and_then(|id| versions.get(id)),
                status: SubscriptionStatus::from_stored(status).unwrap_or_else(|| {
                    error!(account.id = %id, status, "unknown subscription status: treated as paused");
                    SubscriptionStatus::Paused
                }),
                period: Period {
                    start: seconds(row.period_start)?,
                    end: seconds(row.period_end)?,
                },
                segment_start: seconds(row.segment_start),
                anchor: seconds(row.billing_anchor)?,
                ends_at: seconds(row.ends_at),
                then_plan: row.then_plan_id.clone(),
                then_version: row.then_version_id.and_then(|id| versions.get(id)),
                grace_until: seconds(row.grace_until),
                paid_until: seconds(row.paid_until),
                in_stripe: row.in_stripe,
                currency: row.currency.as_deref().and_then(|currency| currency.parse().ok()),
            })
        };
        let facts = Facts {
            suspended: row.status != "active",
            subscription: subscription(),
            subscription_changed: row.subscription_changed,
            owed_invoice_url: row.owed_invoice_url,
            overrides,
            spend_cap: row
                .cap_cents
                .zip(row.cap_revision)
                .map(|(cents, revision)| SpendCap { cents, revision }),
        };
        (id, facts)
    });
    Ok(accounts.collect())
}
