//! Applies events.

use schema::AccountId;
use tracing::error;

use crate::{
    accounts::customers,
    error::Error,
    reports::close,
    stripe::object::Invoice,
    subscriptions::{billing::Billing, invoices, refresh, reversals, unlinked, unpaid, usage},
    tasks::repository::{self as tasks, TaskKind},
};

use super::claims::Received;

/// Whether anything here depends on an event of this type.
pub fn is_ours(kind: &str) -> bool {
    is_of_customer(kind)
        || matches!(kind, "customer.deleted" | "v1.billing.meter.error_report_triggered")
        || [
            "customer.subscription.",
            "subscription_schedule.",
            "invoice.",
            "checkout.session.",
            "credit_note.",
            "refund.",
            "charge.dispute.",
        ]
        .iter()
        .any(|prefix| kind.starts_with(prefix))
}

/// A customer may have been linked to an account, in its metadata.
fn is_of_customer(kind: &str) -> bool {
    matches!(kind, "customer.created" | "customer.updated")
}

/// Applies the events of one customer, or one event without a customer. Repeating it changes nothing. The customer's
/// subscriptions are read once for all events. `false`: the events concern no account here.
pub async fn apply(billing: &Billing, customer: Option<&str>, events: &[Received]) -> Result<bool, Error> {
    for event in events {
        if event.kind == "v1.billing.meter.error_report_triggered" {
            // The event only contains samples. Comparing totals finds the missing units.
            error!(
                event.id = event.id,
                meter = event.object_id,
                "Stripe rejected meter events: run `billing-worker reconcile`"
            );
            return Ok(true);
        }
        if let Some(session) = event.object_id.as_deref().filter(|id| id.starts_with("cs_"))
            && event.kind != "checkout.session.async_payment_succeeded"
        {
            unpaid::checkout_ended(&billing.admin.db, session, billing.clock.now_s()).await?;
        }
    }
    let mut reversed: Vec<_> = (events.iter())
        .filter_map(|event| reversals::named(&event.kind, event.object_id.as_deref()))
        .collect();
    reversed.sort_unstable();
    reversed.dedup();
    let customer = match customer {
        Some(customer) => Some(customer.to_owned()),
        None => reversals::customer(billing, &reversed).await?,
    };
    let Some(customer) = customer.as_deref() else {
        return Ok(false);
    };
    let known = customers::account_of(&billing.admin.db, customer, billing.stripe()?.is_live()).await?;
    let account = match known {
        Some(account) => account,
        None => match customers::adopt(billing, customer).await? {
            Some(account) => account,
            None => {
                if events.iter().any(|event| unlinked::is_of_payer(&event.kind)) {
                    unlinked::look(billing, customer).await?;
                }
                return Ok(false);
            }
        },
    };
    if known.is_some() && events.iter().all(|event| is_of_customer(&event.kind)) {
        return Ok(true);
    }
    let billing = &billing.of(account);
    let mut named: Vec<String> = events.iter().filter_map(|event| event.object_id.clone()).collect();
    named.retain(|id| id.starts_with("in_"));
    // A refund that cannot be read does not delay the subscription and the invoices.
    let mut done = match reversals::copy(billing, account, &reversed).await {
        Ok(invoices) => {
            named.extend(invoices);
            Ok(())
        }
        Err(failure) => Err(failure),
    };
    named.sort_unstable();
    named.dedup();
    if named.is_empty() {
        refresh::refresh(billing, account).await?;
    }
    // A draft that waits for usage does not delay the other invoices.
    for named in named.chunks(invoices::READ_MAX) {
        let refreshed = refresh::refresh_with(billing, account, named).await?;
        let fetched = refreshed.invoices.invoices.iter().map(|fetched| &fetched.invoice);
        for invoice in fetched.filter(|invoice| named.contains(&invoice.id)) {
            done = done.and(invoiced(billing, account, invoice).await);
        }
    }
    done?;
    if events.iter().any(|event| event.kind == "customer.deleted") {
        // Last, because its subscriptions must be read first.
        customers::deleted(&billing.admin.db, customer, billing.clock.now_s()).await?;
    }
    Ok(true)
}

/// An invoice closes the period that it bills. While it is a draft, the period's last usage can still be reported; once it is
/// final, later usage is carried.
async fn invoiced(billing: &Billing, account: AccountId, invoice: &Invoice) -> Result<(), Error> {
    let Some(subscription) = invoice.subscription() else {
        return Ok(());
    };
    if invoice.status() == "draft" {
        // Usage that is reported while the invoice is a draft still appears on it. The usage of a trial is reported in the trial,
        // where it is free.
        usage::report(billing, account, subscription).await?;
    }
    if close::close(&billing.admin.db, account, subscription, invoice).await? {
        tasks::wake(&billing.admin.db, account, TaskKind::RemoveItems).await?;
    }
    Ok(())
}
