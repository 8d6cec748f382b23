//! Which invoice a subscription owes. A customer is refused because of that invoice, and not because of the subscription's status:
//! Stripe keeps a status such as `past_due` until the latest invoice is paid, and that may be one that is void.

use schema::{AccountId, subscription::SubscriptionStatus};
use stripe_billing::{InvoiceStatus, invoice::ListInvoice};

use super::{billing::Billing, invoices::fetch};
use crate::{
    error::{Error, InvoiceToPay},
    stripe::{
        Stripe, StripeError,
        object::{Invoice, List, Reference, Subscription},
    },
};

/// How many of the oldest open invoices are looked at one by one.
const LOOKED_AT: usize = 5;
/// The same for those of subscriptions that ended.
const LEFT_LOOKED_AT: i64 = 5;

/// The invoices of a subscription, and for its usage, that are not paid.
pub(super) async fn unpaid(stripe: &Stripe, subscription: &Subscription) -> Result<Vec<Invoice>, StripeError> {
    let status = SubscriptionStatus::from_stored(&subscription.status);
    let mut unpaid = of_subscription(stripe, subscription, status).await?;
    if status.is_some_and(SubscriptionStatus::is_live) {
        unpaid.extend(for_usage(stripe, subscription).await?);
    }
    unpaid.sort_by_key(since);
    for invoice in unpaid
        .iter_mut()
        .filter(|invoice| invoice.status() == "open")
        .take(LOOKED_AT)
    {
        *invoice = fetch::with_payment(stripe, &invoice.id).await?;
    }
    Ok(unpaid)
}

/// They are read only if Stripe says that a payment failed. Of an unpaid subscription, Stripe leaves later invoices as drafts.
async fn of_subscription(
    stripe: &Stripe,
    subscription: &Subscription,
    status: Option<SubscriptionStatus>,
) -> Result<Vec<Invoice>, StripeError> {
    let statuses: &[InvoiceStatus] = match status {
        Some(SubscriptionStatus::PastDue) => &[InvoiceStatus::Open],
        Some(SubscriptionStatus::Unpaid) => &[InvoiceStatus::Open, InvoiceStatus::Draft],
        _ => &[],
    };
    let mut unpaid = Vec::new();
    for status in statuses {
        let list = ListInvoice::new()
            .subscription(subscription.id.as_str())
            .status(status.clone())
            .limit(100);
        unpaid.extend(stripe.read::<List<Invoice>>(&list).await?.data);
    }
    Ok(unpaid)
}

/// The open invoices for units of a subscription whose own invoices bill none. Whether one of them is paid does not change the
/// subscription's status in Stripe.
async fn for_usage(stripe: &Stripe, subscription: &Subscription) -> Result<Vec<Invoice>, StripeError> {
    if subscription
        .plan_item()
        .is_none_or(|item| item.price.interval_months() == 1)
    {
        return Ok(Vec::new());
    }
    let list = ListInvoice::new()
        .customer(subscription.customer.id())
        .status(InvoiceStatus::Open)
        .limit(100);
    let mut open = stripe.read::<List<Invoice>>(&list).await?.data;
    open.retain(|invoice| invoice.charges() == Some(subscription.id.as_str()));
    Ok(open)
}

/// The invoice that is owed for longest. A later one, or one for a change that waits for payment, starts no new grace period. A
/// draft that Stripe will collect by itself is not owed yet, and an invoice whose payment takes days, such as a bank debit, is not
/// owed while it does.
pub(super) fn longest<'a>(subscription: &Subscription, unpaid: &'a [Invoice]) -> Option<&'a Invoice> {
    let of_a_change = subscription
        .latest_invoice
        .as_ref()
        .filter(|_| subscription.pending_update.is_some())
        .map(Reference::id);
    let owed = unpaid.iter().filter(|invoice| {
        let is_due = invoice.status() == "open" || !invoice.auto_advance;
        is_due && !is_processing(invoice) && invoice.amount_remaining > 0 && Some(invoice.id.as_str()) != of_a_change
    });
    owed.min_by_key(|invoice| since(invoice))
}

/// When the invoice became payable. Stripe first tries to collect it when it finalizes it: that is when the payment failed.
pub(super) fn since(invoice: &Invoice) -> i64 {
    invoice.status_transitions.finalized_at.unwrap_or(invoice.created)
}

/// Fails if the subscription owes an invoice: it is paid before anything else is bought.
pub(super) async fn refuse(billing: &Billing, subscription: &Subscription) -> Result<(), Error> {
    let unpaid = unpaid(billing.stripe()?, subscription).await?;
    match longest(subscription, &unpaid) {
        None => Ok(()),
        Some(invoice) => Err(payment_required(invoice)),
    }
}

/// Fails if an invoice of a subscription that has ended is not paid: the customer still owes it.
pub(super) async fn refuse_left(billing: &Billing, account: AccountId) -> Result<(), Error> {
    let left = sqlx::query_scalar!(
        "select i.id from stripe_invoices i join subscriptions s
             on s.stripe_subscription_id = coalesce(i.subscription_id, i.charges_subscription_id)
         where i.account_id = $1 and i.status = 'open' and i.amount_remaining > 0 and s.status = 'canceled'
         order by i.finalized_at limit $2",
        account.0,
        LEFT_LOOKED_AT
    )
    .fetch_all(&billing.admin.db)
    .await?;
    for id in left {
        // The customer may have paid it a moment ago, or a bank debit is in progress.
        let invoice = fetch::with_payment(billing.stripe()?, &id).await?;
        if invoice.status() == "open" && invoice.amount_remaining > 0 && !is_processing(&invoice) {
            return Err(payment_required(&invoice));
        }
    }
    Ok(())
}

fn payment_required(invoice: &Invoice) -> Error {
    Error::PaymentRequired(Box::new(InvoiceToPay {
        invoice_id: invoice.id.clone(),
        hosted_invoice_url: invoice.hosted_invoice_url.clone(),
        client_secret: None,
        expires_at: None,
    }))
}

fn is_processing(invoice: &Invoice) -> bool {
    let payment = invoice.payment_intent();
    payment.is_some_and(|payment| payment.status == "processing")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn subscription(more: Value) -> Subscription {
        let mut subscription = json!({ "id": "sub_1", "customer": "cus_1", "status": "past_due", "livemode": false, "currency": "usd",
            "created": 0,
            "billing_cycle_anchor": 0, "items": { "data": [] }, "latest_invoice": "in_latest" });
        subscription
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        serde_json::from_value(subscription).unwrap()
    }

    fn invoice(id: &str, status: &str, remaining: i64, finalized_at: Option<i64>, auto_advance: bool) -> Invoice {
        let invoice = json!({ "id": id, "status": status, "currency": "usd", "total": 2_900, "amount_due": 2_900,
            "amount_remaining": remaining, "auto_advance": auto_advance, "created": 100, "period_start": 0, "period_end": 0,
            "status_transitions": { "finalized_at": finalized_at } });
        serde_json::from_value(invoice).unwrap()
    }

    #[test]
    fn the_invoice_that_is_payable_for_longest_is_owed() {
        let of = subscription(json!({}));
        let owed = |unpaid: &[Invoice]| longest(&of, unpaid).map(|invoice| (invoice.id.clone(), since(invoice)));
        let (first, second) = (
            invoice("in_1", "open", 2_900, Some(200), true),
            invoice("in_2", "open", 2_900, Some(300), true),
        );
        let expected = Some(("in_1".to_owned(), 200));
        assert_eq!(owed(&[first.clone(), second.clone()]), expected);
        assert_eq!(owed(&[second, first]), expected);
        assert_eq!(owed(&[]), None);
        for not_owed in [
            invoice("in_1", "open", 0, Some(200), true),
            invoice("in_1", "draft", 2_900, None, true),
        ] {
            assert_eq!(owed(&[not_owed]), None);
        }
        // Stripe does not collect it, because the subscription is unpaid.
        let left = invoice("in_1", "draft", 2_900, None, false);
        assert_eq!(owed(&[left]), Some(("in_1".to_owned(), 100)));
    }

    #[test]
    fn an_invoice_is_not_owed_while_its_payment_is_processing() {
        for (status, is_owed) in [("processing", false), ("requires_payment_method", true)] {
            let invoice = json!({ "id": "in_1", "status": "open", "currency": "usd", "total": 2_900, "amount_due": 2_900,
                "amount_remaining": 2_900, "created": 100, "period_start": 0, "period_end": 0, "payments": { "data": [
                    { "payment": { "payment_intent": { "id": "pi_1", "status": status, "client_secret": "pi_1_secret_2" } } }] } });
            let unpaid = [serde_json::from_value(invoice).unwrap()];
            assert_eq!(
                longest(&subscription(json!({})), &unpaid).is_some(),
                is_owed,
                "{status}"
            );
        }
    }

    #[test]
    fn a_change_that_waits_for_its_payment_is_not_owed() {
        let latest = [invoice("in_latest", "open", 27_000, Some(200), true)];
        assert!(longest(&subscription(json!({})), &latest).is_some());
        let waits = subscription(json!({ "pending_update": { "expires_at": 900 } }));
        assert!(longest(&waits, &latest).is_none());
    }
}
