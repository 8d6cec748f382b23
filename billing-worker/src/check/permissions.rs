//! What the key may do. Each read is tried with one object, and each write with an object that does not exist: Stripe then says that
//! it is missing, or that the key may not. Nothing is changed.

use serde_json::{Value, json};

use super::row::Row;
use crate::stripe::{Raw, Stripe, StripeError, Write};

/// Resources of Stripe's API that are read, by the path of their list.
const READS: [(&str, &str); 14] = [
    ("Billing Meters", "/billing/meters"),
    ("Checkout Sessions", "/checkout/sessions"),
    ("Credit Notes", "/credit_notes"),
    ("Customer Portal", "/billing_portal/configurations"),
    ("Customers", "/customers"),
    ("Disputes", "/disputes"),
    ("Events", "/events"),
    ("Invoice Payments", "/invoice_payments"),
    ("Invoices", "/invoices"),
    ("Prices", "/prices"),
    ("Products", "/products"),
    ("Refunds", "/refunds"),
    ("Subscription Schedules", "/subscription_schedules"),
    ("Subscriptions", "/subscriptions"),
];

/// Resources that are written, with a call that fails because of what it names.
fn writes() -> [(&'static str, &'static str, Value); 12] {
    let nothing = || json!({});
    let payload = json!({ "stripe_customer_id": "cus_trenditcheck", "value": "1" });
    let item = json!({ "customer": "cus_trenditcheck", "amount": 1, "currency": "usd" });
    [
        (
            "Billing Meter Events",
            "/billing/meter_events",
            json!({ "event_name": "trenditcheck", "payload": payload }),
        ),
        ("Billing Meters", "/billing/meters/mtr_trenditcheck", nothing()),
        (
            "Checkout Sessions",
            "/checkout/sessions/cs_trenditcheck/expire",
            nothing(),
        ),
        (
            "Credit Notes",
            "/credit_notes",
            json!({ "invoice": "in_trenditcheck", "amount": 1 }),
        ),
        (
            "Customer Portal",
            "/billing_portal/sessions",
            json!({ "customer": "cus_trenditcheck" }),
        ),
        ("Customers", "/customers/cus_trenditcheck", nothing()),
        ("Invoice Items", "/invoiceitems", item),
        ("Invoices", "/invoices/in_trenditcheck/void", nothing()),
        ("Prices", "/prices/price_trenditcheck", nothing()),
        ("Products", "/products/prod_trenditcheck", nothing()),
        (
            "Subscription Schedules",
            "/subscription_schedules/sub_sched_trenditcheck/release",
            nothing(),
        ),
        ("Subscriptions", "/subscriptions/sub_trenditcheck", nothing()),
    ]
}

pub(super) async fn look(stripe: &Stripe) -> Result<Vec<Row>, StripeError> {
    let mut answers = Vec::new();
    for (resource, path) in READS {
        let read = stripe.read::<Value>(&Raw::get(path, json!({ "limit": 1 }))).await;
        answers.push((resource, "read", denied(read)?));
    }
    for (resource, path, form) in writes() {
        let written = stripe.write::<Value>(&Raw::post(path, form), Write::Settable).await;
        answers.push((resource, "write", denied(written)?));
    }
    Ok(rules(&answers))
}

/// Why the key may not; `None`: it may, whether the object exists or not.
fn denied(answer: Result<Value, StripeError>) -> Result<Option<String>, StripeError> {
    match answer {
        Ok(_) | Err(StripeError::Refused(_)) => Ok(None),
        Err(StripeError::Unauthorized(why)) => Ok(Some(why)),
        Err(error) => Err(error),
    }
}

fn rules(answers: &[(&str, &str, Option<String>)]) -> Vec<Row> {
    if let Some((_, _, Some(why))) = answers.first()
        && answers.iter().all(|(_, _, denied)| denied.is_some())
    {
        return vec![Row::error(
            format!("Stripe does not accept STRIPE_SECRET_KEY: {why}"),
            "set a valid key of the right Stripe account",
        )];
    }
    let denied: Vec<_> = (answers.iter().filter(|(_, _, denied)| denied.is_some()))
        .map(|(resource, access, _)| {
            Row::error(
                format!("the key has no permission to {access} {resource}"),
                format!("give it the permission in Stripe's dashboard: {resource}, {access}"),
            )
        })
        .collect();
    match denied.is_empty() {
        true => vec![Row::ok("the key has all permissions that are needed")],
        false => denied,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_may_nothing_is_one_error() {
        let no = || Some("no such key".to_owned());
        let whats = |answers: &[(&str, &str, Option<String>)]| -> Vec<String> {
            rules(answers).into_iter().map(|row| row.what).collect()
        };
        assert_eq!(
            whats(&[("Customers", "read", no()), ("Prices", "write", no())]),
            ["Stripe does not accept STRIPE_SECRET_KEY: no such key"]
        );
        assert_eq!(
            whats(&[("Customers", "read", None), ("Prices", "write", no())]),
            ["the key has no permission to write Prices"]
        );
        assert_eq!(
            whats(&[("Customers", "read", None), ("Prices", "write", None)]),
            ["the key has all permissions that are needed"]
        );
    }
}
