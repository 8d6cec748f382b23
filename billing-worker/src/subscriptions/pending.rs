//! An upgrade that is not paid at once: Stripe holds it back and leaves its invoice open. If the payment failed, the invoice is
//! voided, because the customer was told that nothing changed. If the bank asks the customer to confirm the payment, the invoice
//! stays open until Stripe discards the upgrade.
//!
//! That an upgrade was sent is stored before the call. So a worker that dies after the call loses nothing: the next refresh of the
//! account, which Stripe's events cause, voids the invoice.

use problem::Secret;
use schema::{AccountId, period::instant};
use sqlx::{PgExecutor, Postgres, Transaction};
use stripe_billing::invoice::VoidInvoiceInvoice;
use tracing::{info, warn};

use super::{invoices::fetch, lease::Lease};
use crate::{
    error::{Error, InvoiceToPay},
    stripe::{
        Stripe, StripeError, Write,
        object::{Invoice, Subscription},
    },
};

/// An upgrade that waits until the customer has confirmed its payment.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    /// `None`: its price was not made by this service.
    plan: Option<String>,
    invoice_id: String,
    /// Then Stripe discards it.
    until: i64,
}

/// Remembers that an upgrade is sent to Stripe.
pub(super) async fn begin(lease: &Lease, now: i64) -> Result<(), Error> {
    let mut tx = lease.begin().await?;
    sqlx::query!(
        "update stripe_customers set upgrade_begun_at = $2 where account_id = $1",
        lease.account().0,
        instant(now)
    )
    .execute(&mut *tx)
    .await?;
    Ok(tx.commit().await?)
}

/// Whether an upgrade was sent whose end is not known.
pub(super) async fn is_begun(db: impl PgExecutor<'_>, account: AccountId) -> Result<bool, Error> {
    let is_begun = sqlx::query_scalar!(
        r#"select upgrade_begun_at is not null as "is_begun!" from stripe_customers where account_id = $1"#,
        account.0
    );
    Ok(is_begun.fetch_optional(db).await?.unwrap_or(false))
}

/// Stores which upgrade still waits for its payment. `None`: none waits any more.
pub(super) async fn store(
    tx: &mut Transaction<'_, Postgres>,
    account: AccountId,
    waiting: Option<&Waiting>,
) -> Result<(), Error> {
    sqlx::query!(
        "update stripe_customers set upgrade_begun_at = case when $2::text is null then null else upgrade_begun_at end,
             upgrade_invoice_id = $2, upgrade_plan_id = $3, upgrade_until = $4
         where account_id = $1 and upgrade_begun_at is not null",
        account.0,
        waiting.map(|waiting| &waiting.invoice_id),
        waiting.and_then(|waiting| waiting.plan.as_ref()),
        waiting.map(|waiting| instant(waiting.until))
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Voids the invoice of a held back upgrade if its payment failed. Returns the upgrade if it still waits.
pub(super) async fn give_up(stripe: &Stripe, subscription: &Subscription) -> Result<Option<Waiting>, StripeError> {
    let (Some(invoice), Some(pending)) = (invoice(stripe, subscription).await?, &subscription.pending_update) else {
        return Ok(None);
    };
    let items = pending.subscription_items.iter().flatten();
    let waiting = Waiting {
        plan: items.filter_map(|item| item.price.plan()).map(str::to_owned).next(),
        invoice_id: invoice.id.clone(),
        until: pending.expires_at,
    };
    if !has_failed(&invoice) {
        return Ok((invoice.status() == "open").then_some(waiting));
    }
    let void = VoidInvoiceInvoice::new(invoice.id.as_str());
    match stripe.write::<Invoice>(&void, Write::Settable).await {
        Ok(_) => {
            info!(
                invoice.id = invoice.id,
                "voided the invoice of an upgrade that was not paid"
            );
            Ok(None)
        }
        // It may have been paid or voided meanwhile. Then an event of it comes, and it is looked at again.
        Err(StripeError::Refused(refusal)) => {
            warn!(
                invoice.id = invoice.id,
                "could not void the invoice of an upgrade that was not paid: {refusal}"
            );
            Ok(Some(waiting))
        }
        Err(error) => Err(error),
    }
}

/// Voids the invoice of a held back upgrade, because the customer decided otherwise: to pay it later must not start the plan.
pub(super) async fn withdraw(stripe: &Stripe, subscription: &Subscription) -> Result<(), Error> {
    let Some(invoice) = invoice(stripe, subscription)
        .await?
        .filter(|invoice| invoice.status() == "open")
    else {
        return Ok(());
    };
    let void = VoidInvoiceInvoice::new(invoice.id.as_str());
    match stripe.write::<Invoice>(&void, Write::Settable).await {
        Ok(_) => {
            info!(
                invoice.id = invoice.id,
                "voided the invoice of an upgrade, because a later change replaces it"
            );
            Ok(())
        }
        Err(StripeError::Refused(refusal)) => {
            warn!(
                invoice.id = invoice.id,
                "could not void the invoice of an upgrade: {refusal}"
            );
            Err(Error::Conflict(
                "an upgrade is being paid at the moment: try again when GET /billing/subscription shows its result"
                    .to_owned(),
            ))
        }
        Err(error) => Err(error.into()),
    }
}

/// The invoice that the customer can still pay for the held back upgrade, if the bank asks for a confirmation.
pub(super) async fn to_confirm(
    stripe: &Stripe,
    subscription: &Subscription,
) -> Result<Option<InvoiceToPay>, StripeError> {
    let invoice = invoice(stripe, subscription).await?;
    let Some(invoice) = invoice.filter(|invoice| invoice.status() == "open" && !has_failed(invoice)) else {
        return Ok(None);
    };
    let secret = invoice.payment_intent().and_then(|payment| payment.client_secret);
    Ok(Some(InvoiceToPay {
        client_secret: secret.map(Secret),
        expires_at: subscription.pending_update.as_ref().map(|pending| pending.expires_at),
        invoice_id: invoice.id,
        hosted_invoice_url: invoice.hosted_invoice_url,
    }))
}

/// The invoice of the held back upgrade, with its payment.
async fn invoice(stripe: &Stripe, subscription: &Subscription) -> Result<Option<Invoice>, StripeError> {
    let latest = subscription.latest_invoice.as_ref();
    let Some(id) = latest.filter(|_| subscription.pending_update.is_some()) else {
        return Ok(None);
    };
    fetch::with_payment(stripe, id.id()).await.map(Some)
}

/// Whether the last attempt to pay it was declined, or there was none.
fn has_failed(invoice: &Invoice) -> bool {
    let status = invoice.payment_intent().map(|payment| payment.status);
    invoice.status() == "open" && matches!(status.as_deref(), None | Some("requires_payment_method" | "canceled"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn only_an_open_invoice_whose_payment_failed_is_voided() {
        for (status, payment, expected) in [
            ("open", json!("requires_payment_method"), true),
            ("open", Value::Null, true),
            ("open", json!("requires_action"), false),
            ("open", json!("processing"), false),
            ("paid", json!("succeeded"), false),
            ("void", json!("canceled"), false),
        ] {
            let payments = match payment.is_null() {
                true => json!([]),
                false => json!([{ "payment": { "payment_intent": { "id": "pi_1", "status": payment } } }]),
            };
            let invoice = json!({ "id": "in_1", "status": status, "currency": "usd", "total": 1, "amount_due": 1, "created": 0,
                "period_start": 0, "period_end": 0, "payments": { "data": payments } });
            let invoice = serde_json::from_value(invoice).unwrap();
            assert_eq!(has_failed(&invoice), expected, "{status} {payment}");
        }
    }
}
