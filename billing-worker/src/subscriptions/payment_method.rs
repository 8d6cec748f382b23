//! Whether the customer's payment method allows a change that begins at once. Such a change waits in Stripe until its invoice is
//! paid, and Stripe supports that for cards, but not for bank debits, which take days.
//! (<https://docs.stripe.com/billing/subscriptions/pending-updates>)

use serde::Deserialize;
use stripe_billing::subscription::RetrieveSubscription;

use super::billing::Billing;
use crate::error::Error;

/// With any other method the larger plan would be refused, or begin before it is paid.
const AT_ONCE: [&str; 2] = ["card", "link"];

#[derive(Deserialize)]
struct Subscription {
    default_payment_method: Option<Method>,
    customer: Customer,
}

#[derive(Deserialize)]
struct Customer {
    invoice_settings: Option<InvoiceSettings>,
}

#[derive(Deserialize)]
struct InvoiceSettings {
    default_payment_method: Option<Method>,
}

#[derive(Deserialize)]
struct Method {
    #[serde(rename = "type")]
    kind: String,
}

/// Fails if the subscription is paid by a method that is slow, such as a bank debit.
pub(super) async fn refuse_slow(billing: &Billing, subscription: &str) -> Result<(), Error> {
    let retrieve = RetrieveSubscription::new(subscription).expand(vec![
        "default_payment_method".to_owned(),
        "customer.invoice_settings.default_payment_method".to_owned(),
    ]);
    let found: Subscription = billing.stripe()?.read(&retrieve).await?;
    match slow(found) {
        None => Ok(()),
        Some(kind) => Err(Error::PaymentMethodUnsupported { kind }),
    }
}

/// The subscription's method counts before the customer's. Without one, Stripe declines the payment.
fn slow(found: Subscription) -> Option<String> {
    let of_customer = found
        .customer
        .invoice_settings
        .and_then(|settings| settings.default_payment_method);
    let method = found.default_payment_method.or(of_customer)?;
    Some(method.kind).filter(|kind| !AT_ONCE.contains(&kind.as_str()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn the_subscriptions_own_method_decides_before_the_customers() {
        let kind = |kind: &str| json!({ "id": "pm_1", "type": kind });
        for (own, of_customer, expected) in [
            (Value::Null, Value::Null, None),
            (Value::Null, kind("card"), None),
            (Value::Null, kind("us_bank_account"), Some("us_bank_account")),
            (kind("sepa_debit"), kind("card"), Some("sepa_debit")),
            (kind("link"), kind("us_bank_account"), None),
        ] {
            let found = json!({ "default_payment_method": own,
                "customer": { "id": "cus_1", "invoice_settings": { "default_payment_method": of_customer } } });
            let found = slow(serde_json::from_value(found).unwrap());
            assert_eq!(found.as_deref(), expected, "{own} {of_customer}");
        }
    }
}
