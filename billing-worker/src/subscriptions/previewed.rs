//! What customers were shown that an upgrade costs. An upgrade that names a preview is refused if its price has changed.

use schema::{AccountId, period::instant};
use sqlx::PgPool;
use stripe_billing::invoice::{
    CreatePreviewInvoice, CreatePreviewInvoiceSubscriptionDetails, CreatePreviewInvoiceSubscriptionDetailsItems,
    CreatePreviewInvoiceSubscriptionDetailsProrationBehavior, CreatePreviewInvoiceSubscriptionDetailsTrialEnd,
};

use super::{prices::PlanPrices, running::Running};
use crate::{
    error::Error,
    stripe::{Write, object::Invoice},
    subscriptions::billing::Billing,
};

/// Fails if the upgrade would cost something else than was previewed for this second.
pub(super) async fn confirm(
    billing: &Billing,
    account: AccountId,
    running: &Running,
    prices: &PlanPrices,
    ends_trial: bool,
    proration_date: i64,
) -> Result<(), Error> {
    let previewed = sqlx::query!(
        "select amount_due, currency from upgrade_previews
         where account_id = $1 and price_id = $2 and proration_date = $3 and valid_until > $4",
        account.0,
        prices.plan,
        instant(proration_date),
        instant(billing.clock.now_s())
    )
    .fetch_optional(&billing.admin.db)
    .await?;
    let previewed = previewed.filter(|_| proration_date >= running.period_start());
    let previewed = previewed.ok_or(Error::PreviewExpired)?;
    let now = invoice(billing, running, prices, ends_trial, proration_date).await?;
    match now.amount_due == previewed.amount_due && now.currency == previewed.currency {
        true => Ok(()),
        false => Err(Error::PreviewOutdated {
            previewed: previewed.amount_due,
            now: now.amount_due,
            currency: now.currency,
        }),
    }
}

/// The invoice of an upgrade whose price counts from `at`.
pub(super) async fn invoice(
    billing: &Billing,
    running: &Running,
    prices: &PlanPrices,
    ends_trial: bool,
    at: i64,
) -> Result<Invoice, Error> {
    let mut details = CreatePreviewInvoiceSubscriptionDetails::new();
    // As the upgrade does: usage is billed at the end of the period.
    let mut item = CreatePreviewInvoiceSubscriptionDetailsItems::new();
    item.id = running.plan_item().map(|item| item.id.clone());
    (item.price, item.quantity) = (Some(prices.plan.clone()), Some(1));
    details.items = Some(vec![item]);
    if !running.is_trial() {
        details.proration_date = Some(at);
    } else if ends_trial {
        details.trial_end = Some(CreatePreviewInvoiceSubscriptionDetailsTrialEnd::Now);
    }
    details.proration_behavior = Some(CreatePreviewInvoiceSubscriptionDetailsProrationBehavior::AlwaysInvoice);
    let request = CreatePreviewInvoice::new()
        .customer(running.customer.clone())
        .subscription(running.subscription.id.clone())
        .subscription_details(details);
    Ok(billing.stripe()?.write(&request, Write::Settable).await?)
}

/// What a customer is shown.
pub(super) async fn store(
    db: &PgPool,
    account: AccountId,
    prices: &PlanPrices,
    invoice: &Invoice,
    now: i64,
    valid_until: i64,
) -> Result<(), Error> {
    sqlx::query!(
        "with old as (delete from upgrade_previews where account_id = $1 and valid_until <= $3)
         insert into upgrade_previews (account_id, price_id, proration_date, valid_until, amount_due, currency)
         values ($1, $2, $3, $4, $5, $6)
         on conflict (account_id, price_id, proration_date) do update set amount_due = excluded.amount_due,
             currency = excluded.currency, valid_until = excluded.valid_until",
        account.0,
        prices.plan,
        instant(now),
        instant(valid_until),
        invoice.amount_due,
        invoice.currency
    )
    .execute(db)
    .await?;
    Ok(())
}
