//! `GET /billing/subscription`: the account's plan and subscription.

use axum::{Json, extract::State};
use schema::{AccountId, period::instant, subscription::Entitlement};
use serde::Serialize;
use sqlx::PgPool;
use time::OffsetDateTime;

use super::{PublicApi, authenticate::Caller};
use crate::{
    accounts::limits::{self, LimitInForce},
    error::Error,
    subscriptions::{billing::Billing, current, paying::Paying},
};

#[derive(Serialize)]
pub(super) struct View {
    pub account_id: AccountId,
    pub tier: String,
    #[serde(flatten)]
    pub paying: Paying,
    /// Stripe's status; `none`: the Free plan, without a subscription.
    pub status: String,
    /// Metered calls are answered 402 until the subscription is paid.
    pub payment_required: bool,
    #[serde(with = "time::serde::rfc3339")]
    pub period_start: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub period_end: OffsetDateTime,
    pub cancel_at_period_end: bool,
    /// When the subscription ends or changes to `then_tier`; null: it continues.
    #[serde(with = "time::serde::rfc3339::option")]
    pub ends_at: Option<OffsetDateTime>,
    /// The plan after `ends_at`; null: Free.
    pub then_tier: Option<String>,
    /// After a failed payment the subscription keeps working until this time.
    #[serde(with = "time::serde::rfc3339::option")]
    pub grace_until: Option<OffsetDateTime>,
    /// If the operator stopped the collection of invoices in Stripe: when the time that was paid ends.
    #[serde(with = "time::serde::rfc3339::option")]
    pub paid_until: Option<OffsetDateTime>,
    /// The invoice that must be paid before anything else is bought.
    pub owed_invoice: Option<OwedInvoice>,
    /// An upgrade whose payment the customer must confirm.
    pub pending_upgrade: Option<PendingUpgrade>,
    #[serde(with = "time::serde::rfc3339::option")]
    pub trial_ends_at: Option<OffsetDateTime>,
    pub stripe_subscription_id: Option<String>,
    pub limits: Vec<LimitInForce>,
}

#[derive(Serialize)]
pub(super) struct OwedInvoice {
    pub id: String,
    pub amount_remaining_cents: i64,
    pub currency: String,
    pub hosted_invoice_url: Option<String>,
}

#[derive(Serialize)]
pub(super) struct PendingUpgrade {
    /// None: the price was not made by this service.
    pub tier: Option<String>,
    pub invoice_id: String,
    pub hosted_invoice_url: Option<String>,
    /// Then Stripe discards the upgrade.
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
}

pub(super) async fn show(State(api): State<PublicApi>, Caller(account): Caller) -> Result<Json<View>, Error> {
    Ok(Json(view(&api.billing, account).await?))
}

pub(super) async fn view(billing: &Billing, account: AccountId) -> Result<View, Error> {
    let now = billing.clock.now_s();
    let db = &billing.admin.db;
    let current_plan = current::plan(db, account, now).await?;
    let row = sqlx::query!(
        "select status, coalesce(paid_period_end, period_end) as paid_end, cancel_at_period_end, ends_at, then_plan_id, grace_until, paid_until, trial_ends_at,
                stripe_subscription_id
         from subscriptions where account_id = $1 and is_current",
        account.0
    )
    .fetch_optional(db)
    .await?;
    Ok(View {
        account_id: account,
        status: row.as_ref().map_or_else(|| "none".to_owned(), |row| row.status.clone()),
        payment_required: current_plan.entitlement == Entitlement::PaymentRequired,
        period_start: instant(current_plan.period.start),
        period_end: instant(current_plan.period.end),
        // Also if it was cancelled in the customer portal, which names the time instead.
        cancel_at_period_end: row
            .as_ref()
            .is_some_and(|row| row.cancel_at_period_end || row.ends_at == row.paid_end && row.then_plan_id.is_none()),
        ends_at: row.as_ref().and_then(|row| row.ends_at),
        then_tier: row.as_ref().and_then(|row| row.then_plan_id.clone()),
        grace_until: row.as_ref().and_then(|row| row.grace_until),
        paid_until: row.as_ref().and_then(|row| row.paid_until),
        owed_invoice: owed_invoice(db, account).await?,
        pending_upgrade: pending_upgrade(db, account, now).await?,
        trial_ends_at: row.as_ref().and_then(|row| row.trial_ends_at),
        stripe_subscription_id: row.and_then(|row| row.stripe_subscription_id),
        limits: limits::in_force(db, &billing.admin.catalogue, account, &current_plan).await?,
        paying: Paying::read(db, account, &current_plan).await?,
        tier: current_plan.name,
    })
}

/// Of the running subscription, or the oldest one of those that ended.
async fn owed_invoice(db: &PgPool, account: AccountId) -> Result<Option<OwedInvoice>, Error> {
    let owed = sqlx::query_as!(
        OwedInvoice,
        "select i.id, i.amount_remaining as amount_remaining_cents, i.currency, i.hosted_invoice_url
         from stripe_invoices i join subscriptions s
             on s.stripe_subscription_id = coalesce(i.subscription_id, i.charges_subscription_id)
         where i.account_id = $1 and i.amount_remaining > 0
           and (i.id = s.owed_invoice_id and s.is_current or i.status = 'open' and s.status = 'canceled')
         order by s.is_current desc, i.finalized_at limit 1",
        account.0
    );
    Ok(owed.fetch_optional(db).await?)
}

async fn pending_upgrade(db: &PgPool, account: AccountId, now: i64) -> Result<Option<PendingUpgrade>, Error> {
    let pending = sqlx::query_as!(
        PendingUpgrade,
        r#"select c.upgrade_plan_id as tier, c.upgrade_invoice_id as "invoice_id!", i.hosted_invoice_url as "hosted_invoice_url?",
               c.upgrade_until as "expires_at!"
           from stripe_customers c left join stripe_invoices i on i.id = c.upgrade_invoice_id
           where c.account_id = $1 and c.upgrade_invoice_id is not null and c.upgrade_until > $2"#,
        account.0,
        instant(now)
    );
    Ok(pending.fetch_optional(db).await?)
}
