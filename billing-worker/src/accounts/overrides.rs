//! Limit overrides: limits for one account that replace those of its plan.

use problem::json::Integer;
use schema::{AccountId, UsageType, terms};
use serde_json::{Value, json};
use sqlx::{Postgres, Transaction};
use tracing::info;

use super::{limits::UNITS_MAX, lock, pool_limits};
use crate::{
    administration::{Administration, audit},
    error::Error,
    subscriptions::current,
};

/// Units per period.
pub type LimitUnits = Integer<0, UNITS_MAX>;

/// Sets an override. Refused if the account's plan bills the usage type: the price in Stripe would not follow.
pub async fn set(
    admin: &Administration,
    account: AccountId,
    usage_type: &str,
    units: LimitUnits,
    now: i64,
) -> Result<(), Error> {
    let usage_type = admin.usage_type(usage_type)?;
    let units = units.get();
    let mut tx = admin.db.begin().await?;
    lock(&mut tx, account).await?;
    refuse_unbillable(&mut tx, admin, account, usage_type, now).await?;
    sqlx::query!(
        "insert into limit_overrides (account_id, usage_type, limit_units) values ($1, $2, $3)
         on conflict (account_id, usage_type) do update set limit_units = excluded.limit_units",
        account.0,
        usage_type.name(),
        units
    )
    .execute(&mut *tx)
    .await?;
    pool_limits::apply(&mut tx, &admin.catalogue, &[account], now).await?;
    record(
        &mut tx,
        admin,
        account,
        usage_type,
        "limit.set",
        json!({ "limit_units": units }),
    )
    .await?;
    tx.commit().await?;
    info!(account.id = %account, usage_type = usage_type.name(), units, by = %admin.by, "set a limit");
    pool_limits::announce(admin, &[account]).await;
    Ok(())
}

/// Removes an override: the plan's limit applies again.
pub async fn clear(admin: &Administration, account: AccountId, usage_type: &str, now: i64) -> Result<(), Error> {
    let usage_type = admin.usage_type(usage_type)?;
    let mut tx = admin.db.begin().await?;
    lock(&mut tx, account).await?;
    let cleared = sqlx::query!(
        "delete from limit_overrides where account_id = $1 and usage_type = $2",
        account.0,
        usage_type.name()
    )
    .execute(&mut *tx)
    .await?
    .rows_affected();
    pool_limits::apply(&mut tx, &admin.catalogue, &[account], now).await?;
    if cleared > 0 {
        record(&mut tx, admin, account, usage_type, "limit.clear", json!({})).await?;
    }
    tx.commit().await?;
    if cleared > 0 {
        info!(account.id = %account, usage_type = usage_type.name(), by = %admin.by, "cleared a limit");
        pool_limits::announce(admin, &[account]).await;
    }
    Ok(())
}

async fn refuse_unbillable(
    tx: &mut Transaction<'_, Postgres>,
    admin: &Administration,
    account: AccountId,
    usage_type: UsageType,
    now: i64,
) -> Result<(), Error> {
    let current_plan = current::plan(&mut **tx, account, now).await?;
    let of_plan = admin.catalogue.terms_of(&current_plan, usage_type);
    match terms::agreed_applies(of_plan.mode) {
        true => Ok(()),
        false => Err(Error::OverrideNotBillable {
            plan: current_plan.name,
            usage_type: usage_type.name(),
            mode: of_plan.mode.as_str(),
            included: of_plan.limit,
        }),
    }
}

async fn record(
    tx: &mut Transaction<'_, Postgres>,
    admin: &Administration,
    account: AccountId,
    usage_type: UsageType,
    action: &'static str,
    details: Value,
) -> Result<(), Error> {
    let entry = audit::Entry {
        action,
        account: Some(account),
        subject: usage_type.name().to_owned(),
        details,
        actor: admin.actor(),
    };
    audit::record(tx, entry).await
}
