//! Whether the customer's payment method allows a change that begins at once. Such a change waits in Stripe until its invoice is
//! paid, and Stripe supports that for cards, but not for bank debits, which take days.
//! (<https://docs.stripe.com/billing/subscriptions/pending-updates>)

use serde::Deserialize;
use stripe_billing::subscription::RetrieveSubscription;

use super::billing::Billing;
use crate::error::Error;

/// With any other method the larger plan would be refused, or begin before it is paid.
const AT_ONCE: [&str; 2] = ["card", "link"];

/// A subscription with the payment methods of [`Self::EXPANDED`].
#[derive(Deserialize)]
pub struct Payer {
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
    let expanded = Payer::EXPANDED.map(str::to_owned).to_vec();
    let retrieve = RetrieveSubscription::new(subscription).expand(expanded);
    let found: Payer = billing.stripe()?.read(&retrieve).await?;
    match found.slow() {
        None => Ok(()),
        Some(kind) => Err(Error::PaymentMethodUnsupported { kind: kind.to_owned() }),
    }
}

impl Payer {
    /// The fields to expand.
    pub const EXPANDED: [&str; 2] = [
        "default_payment_method",
        "customer.invoice_settings.default_payment_method",
    ];

    /// The kind of the method, if it does not allow a change at once. The subscription's method counts before the customer's.
    /// Without one, Stripe declines the payment.
    pub fn slow(&self) -> Option<&str> {
        let settings = self.customer.invoice_settings.as_ref();
        let of_customer = settings.and_then(|settings| settings.default_payment_method.as_ref());
        let method = self.default_payment_method.as_ref().or(of_customer)?;
        Some(method.kind.as_str()).filter(|kind| !AT_ONCE.contains(kind))
    }
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
            let found: Payer = serde_json::from_value(found).unwrap();
            assert_eq!(found.slow(), expected, "{own} {of_customer}");
        }
    }
}
