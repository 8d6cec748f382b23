//! Plans: the price list, and the catalogue's copy in the database, from which gateways read limits.

use schema::{
    Burst, Catalogue, Currency, Interval, Mode, Plan, PlanTerms,
    catalogue::Allowance,
    prices::{ByCurrency, UsageBilling},
};
use serde::Serialize;
use serde_json::json;
use sqlx::{Postgres, Transaction};
use std::collections::BTreeMap;
use tracing::info;

use crate::{
    accounts::{
        features, pool_limits,
        versions::{self, Origin, VersionView},
    },
    administration::{Administration, audit},
    error::Error,
    stripe::catalogue::Rates,
};

#[derive(Clone, Debug, Serialize)]
pub struct PriceList {
    pub plans: Vec<PlanView>,
    /// What the caller's account pays in: other currencies are not offered to it. `None`: the account has not paid yet, or the request
    /// has no key.
    pub currency: Option<String>,
}

/// The catalogue as operators see it: also plans that are not listed, and the versions that accounts have.
#[derive(Clone, Debug, Serialize)]
pub struct PlansAndVersions {
    pub plans: Vec<PlanView>,
    pub versions: Vec<VersionView>,
}

/// A plan as the price list shows it.
#[derive(Clone, Debug, Serialize)]
pub struct PlanView {
    pub id: String,
    pub name: String,
    /// Per month, in US dollars.
    pub price_cents: i64,
    pub currency: &'static str,
    /// All prices, by interval and currency.
    pub prices: BTreeMap<Interval, ByCurrency>,
    /// When billed units of a subscription that is paid per year are charged. `None`: it is not sold by the year.
    pub usage_billing: Option<&'static str>,
    pub limits: Vec<PlanLimit>,
    /// The catalogue's own, and all that the plan allows, bills and keeps, for people.
    pub features: Vec<String>,
    /// `None`: events are kept forever.
    pub retention_days: Option<u32>,
    /// Free trial days for a new subscriber; `None`: no trial.
    pub trial_days: Option<u32>,
    /// Burst limit of each key; `None`: no limit.
    pub burst: Option<Burst>,
    /// Whether customers see it. Only an operator gives a plan that is not listed.
    pub listed: bool,
}

#[derive(Clone, Debug, Serialize)]
pub struct PlanLimit {
    pub usage_type: &'static str,
    pub mode: &'static str,
    /// Units per period. Above it requests are refused or, in mode `overage`, billed. `None`: metered from the first unit.
    pub limit: Option<i64>,
    /// The price of a billed unit, in millionths of a US dollar. `None`: units are not billed.
    pub unit_price_micros: Option<i64>,
    /// The same in each currency, in millionths of its main unit. Empty: units are not billed.
    pub unit_prices: ByCurrency,
}

/// The result of a sync.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Synced {
    pub plans: usize,
    /// Accounts whose pools got another limit.
    pub accounts_changed: usize,
}

/// The price list as customers see it. `currency`: what the account pays in, if it is known.
pub fn listed(catalogue: &Catalogue, currency: Option<String>) -> PriceList {
    let shown = currency.as_deref().and_then(|currency| currency.parse().ok());
    let mut plans = list(catalogue, shown.unwrap_or(Currency::USD));
    plans.retain(|plan| plan.listed);
    PriceList { plans, currency }
}

/// Returns all plans, in the catalogue's order.
fn list(catalogue: &Catalogue, currency: Currency) -> Vec<PlanView> {
    let plans = catalogue.plans().iter();
    plans.map(|plan| view(catalogue, plan, currency)).collect()
}

/// Returns all plans, and all versions of them.
pub async fn with_versions(admin: &Administration) -> Result<PlansAndVersions, Error> {
    let plans = list(&admin.catalogue, Currency::USD);
    let versions = versions::list(&admin.db).await?;
    Ok(PlansAndVersions { plans, versions })
}

/// Copies the catalogue to the database and the limits to the pools. Fails if accounts have a plan that is
/// missing from the catalogue.
pub async fn sync(admin: &Administration, now: i64) -> Result<Synced, Error> {
    let removed = copy(admin).await?;
    let synced = Synced {
        plans: admin.catalogue.plans().len(),
        accounts_changed: pool_limits::refresh(admin, now).await?,
    };
    info!(
        plans = synced.plans, plans_removed = removed, accounts_changed = synced.accounts_changed, by = %admin.by,
        "copied the plan catalogue to the database"
    );
    Ok(synced)
}

/// Returns the number of removed plans.
async fn copy(admin: &Administration) -> Result<u64, Error> {
    let catalogue = &admin.catalogue;
    let mut tx = admin.db.begin().await?;
    // Two workers that start together do this one after the other.
    sqlx::query!("lock table plans in share row exclusive mode")
        .execute(&mut *tx)
        .await?;
    let known: Vec<_> = catalogue.plans().iter().map(|plan| plan.id.clone()).collect();
    let in_use = sqlx::query!(
        r#"select p.id, count(distinct s.account_id) as "accounts!"
           from plans p join subscriptions s on s.is_current and p.id in (s.plan_id, s.then_plan_id)
           where p.id <> all($1) group by p.id order by p.id limit 1"#,
        &known
    )
    .fetch_optional(&mut *tx)
    .await?;
    if let Some(row) = in_use {
        return Err(Error::PlanInUse {
            plan: row.id,
            accounts: row.accounts,
        });
    }
    let mut changed = 0;
    for (position, plan) in (0..).zip(catalogue.plans()) {
        let before = stored_terms(&mut tx, catalogue, plan).await?;
        changed += sqlx::query!(
            "insert into plans (id, name, price_cents, retention_days, position) values ($1, $2, $3, $4, $5)
             on conflict (id) do update set name = excluded.name, price_cents = excluded.price_cents,
                 retention_days = excluded.retention_days, position = excluded.position
             where (plans.name, plans.price_cents, plans.retention_days, plans.position) is distinct from
                   (excluded.name, excluded.price_cents, excluded.retention_days, excluded.position)",
            plan.id,
            plan.name,
            plan.price_cents,
            plan.retention_days.map(|days| i32::try_from(days).unwrap_or(i32::MAX)),
            position
        )
        .execute(&mut *tx)
        .await?
        .rows_affected();
        if let Some(before) = before {
            versions::ensure(&mut tx, &plan.id, &before, Origin::Stored).await?;
        }
        let version = versions::ensure(&mut tx, &plan.id, &PlanTerms::of(catalogue, plan), Origin::Catalogue).await?;
        changed += u64::from(versions::make_current(&mut tx, &plan.id, version).await?);
        for usage_type in catalogue.usage_types() {
            let allowance = plan.allowance(*usage_type);
            let (limit, mode) = (allowance.limit, allowance.mode.as_str());
            changed += sqlx::query!(
                "insert into plan_limits (plan_id, usage_type, limit_units, mode) values ($1, $2, $3, $4)
                 on conflict (plan_id, usage_type) do update set limit_units = excluded.limit_units, mode = excluded.mode
                 where (plan_limits.limit_units, plan_limits.mode) is distinct from (excluded.limit_units, excluded.mode)",
                plan.id,
                usage_type.name(),
                limit,
                mode
            )
            .execute(&mut *tx)
            .await?
            .rows_affected();
        }
    }
    let usage_types: Vec<_> = catalogue.usage_types().iter().map(|t| t.name().to_owned()).collect();
    changed += sqlx::query!(
        "delete from plan_limits where plan_id <> all($1) or usage_type <> all($2)",
        &known,
        &usage_types
    )
    .execute(&mut *tx)
    .await?
    .rows_affected();
    // A plan stays, without limits, as long as replaced subscriptions refer to it.
    let removed = sqlx::query!(
        "delete from plans p where id <> all($1)
         and not exists (select from subscriptions s where p.id in (s.plan_id, s.then_plan_id))",
        &known
    )
    .execute(&mut *tx)
    .await?
    .rows_affected();
    if changed + removed > 0 {
        let entry = audit::Entry {
            action: "catalogue.sync",
            account: None,
            subject: known.join(", "),
            details: json!({ "rows_changed": changed, "plans_removed": removed }),
            actor: admin.actor(),
        };
        audit::record(&mut tx, entry).await?;
    }
    tx.commit().await?;
    Ok(removed)
}

/// What a release without versions stored about a plan. `None`: the plan is new, or has versions. Unit prices and the burst limit
/// were not stored: they are those of the catalogue.
async fn stored_terms(
    tx: &mut Transaction<'_, Postgres>,
    catalogue: &Catalogue,
    plan: &Plan,
) -> Result<Option<PlanTerms>, Error> {
    let stored = sqlx::query!(
        "select price_cents, retention_days from plans p
         where id = $1 and not exists (select from plan_versions v where v.plan_id = p.id)",
        plan.id
    )
    .fetch_optional(&mut **tx)
    .await?;
    let Some(stored) = stored else {
        return Ok(None);
    };
    let limits = sqlx::query!(
        "select usage_type, limit_units, mode from plan_limits where plan_id = $1",
        plan.id
    )
    .fetch_all(&mut **tx)
    .await?;
    let usage = limits.into_iter().filter_map(|row| {
        let mode = Mode::from_stored(&row.mode)?;
        let now = catalogue
            .usage_type(&row.usage_type)
            .map(|usage_type| plan.allowance(usage_type));
        let allowance = Allowance {
            limit: row.limit_units,
            mode,
            unit_price_micros: now
                .filter(|now| now.mode == mode)
                .map_or(0, |now| now.unit_price_micros),
        };
        Some((row.usage_type, allowance))
    });
    let usage: BTreeMap<_, _> = usage.collect();
    Ok((!usage.is_empty()).then(|| PlanTerms {
        price_cents: stored.price_cents,
        retention_days: stored.retention_days.and_then(|days| u32::try_from(days).ok()),
        burst: plan.burst,
        usage,
        prices: BTreeMap::new(),
        usage_billing: UsageBilling::default(),
        unit_prices: BTreeMap::new(),
    }))
}

/// `currency`: of the prices in its features, if the plan is sold in it.
fn view(catalogue: &Catalogue, plan: &Plan, currency: Currency) -> PlanView {
    let terms = PlanTerms::of(catalogue, plan);
    let prices = terms.all_prices();
    let sold_in = terms
        .currencies()
        .find(|sold| *sold == currency)
        .unwrap_or(Currency::USD);
    let limit = |usage_type: &schema::UsageType| {
        let allowance = plan.allowance(*usage_type);
        PlanLimit {
            usage_type: usage_type.name(),
            mode: allowance.mode.as_str(),
            limit: (allowance.mode != Mode::Metered).then_some(allowance.limit),
            unit_price_micros: (allowance.mode != Mode::Limited).then_some(allowance.unit_price_micros),
            unit_prices: match allowance.mode {
                Mode::Limited => ByCurrency::new(),
                _ => Rates::of(&terms, usage_type.name()).unit_price_micros,
            },
        }
    };
    PlanView {
        id: plan.id.clone(),
        name: plan.name.clone(),
        price_cents: plan.price_cents,
        currency: "usd",
        usage_billing: prices
            .contains_key(&Interval::Year)
            .then(|| plan.usage_billing.as_str()),
        prices,
        limits: catalogue.usage_types().iter().map(limit).collect(),
        features: features::of(catalogue, plan, sold_in),
        retention_days: plan.retention_days,
        trial_days: (plan.trial_days > 0).then_some(plan.trial_days),
        burst: plan.burst,
        listed: plan.listed,
    }
}
