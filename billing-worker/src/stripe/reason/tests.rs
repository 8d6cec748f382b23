use serde_json::{Value, json};

use super::*;

fn reason(status: u16, error: Value) -> Reason {
    of(&Refusal {
        status,
        ..serde_json::from_value(error).unwrap()
    })
}

fn invalid(message: &str, more: Value) -> Value {
    let mut error = json!({ "type": "invalid_request_error", "message": message });
    error.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    error
}

/// Errors as Stripe sends them.
#[test]
fn each_error_of_stripe_has_its_reason() {
    let no_code = json!({});
    let code = |code: &str| json!({ "code": code });
    let card = |code: &str, decline: Value| json!({ "type": "card_error", "code": code, "decline_code": decline, "message": "Your card was declined." });
    for (expected, status, error) in [
        (
            Reason::Key,
            401,
            invalid("Invalid API Key provided: sk_test_****", no_code.clone()),
        ),
        (
            Reason::Key,
            401,
            invalid("Expired API Key provided: rk_live_****", code("api_key_expired")),
        ),
        (
            Reason::Key,
            403,
            invalid(
                "The provided key 'rk_live_****' does not have the required permissions for this endpoint on account \
                 'acct_1'. Having the 'rak_plan_read' permission would allow this request to continue.",
                no_code.clone(),
            ),
        ),
        (
            Reason::Key,
            400,
            invalid("Your account has not been activated.", code("testmode_charges_only")),
        ),
        (
            Reason::Busy,
            429,
            invalid(
                "Request rate limit exceeded. Learn more about rate limits.",
                code("rate_limit"),
            ),
        ),
        (
            Reason::Busy,
            429,
            invalid(
                "This object cannot be accessed right now because another API request …",
                code("lock_timeout"),
            ),
        ),
        (
            Reason::Busy,
            409,
            json!({ "type": "idempotency_error", "code": "idempotency_key_in_use", "message": "There is currently another …" }),
        ),
        (
            Reason::Declined,
            402,
            card("card_declined", json!("insufficient_funds")),
        ),
        (Reason::Declined, 402, card("expired_card", Value::Null)),
        (
            Reason::Declined,
            402,
            card("authentication_required", json!("authentication_required")),
        ),
        (
            Reason::Declined,
            400,
            invalid(
                "The bank account was declined.",
                code("payment_method_bank_account_blocked"),
            ),
        ),
        (
            Reason::NoPaymentMethod,
            400,
            invalid(
                "This customer has no attached payment source or default payment method. Please consider adding a default \
                 payment method.",
                code("resource_missing"),
            ),
        ),
        (
            Reason::CurrencyMismatch,
            400,
            invalid(
                "You cannot combine currencies on a single customer. This customer has an active subscription, subscription \
                 schedule, discount, quote, or invoice item with currency eur",
                no_code.clone(),
            ),
        ),
        (
            Reason::CurrencyMismatch,
            400,
            invalid(
                "The price specified only supports `usd`. This doesn't match the expected currency: `eur`.",
                json!({ "param": "line_items[0]" }),
            ),
        ),
        (
            Reason::CurrencyMismatch,
            400,
            invalid(
                "Currency and interval fields must match across all plans on this subscription. Found mismatch in currency \
                 field.",
                json!({ "param": "items" }),
            ),
        ),
        (
            Reason::CurrencyMismatch,
            400,
            invalid(
                "The currency specified does not match the currency for the attached payment method.",
                code("payment_method_currency_mismatch"),
            ),
        ),
        (
            Reason::AmountNotChargeable,
            400,
            invalid(
                "Amount must be at least $0.50 usd",
                json!({ "code": "amount_too_small", "param": "amount" }),
            ),
        ),
        (
            Reason::AmountNotChargeable,
            400,
            invalid(
                "The Checkout Session's total amount due must add up to at least $0.50 usd",
                code("amount_too_small"),
            ),
        ),
        (
            Reason::AmountNotChargeable,
            400,
            invalid("Amount must be no more than $999,999.99", code("amount_too_large")),
        ),
        (
            Reason::PaymentMethodUnsupported,
            400,
            invalid(
                "`payment_behavior=pending_if_incomplete` cannot be used with the payment method type `us_bank_account`.",
                json!({ "param": "payment_behavior" }),
            ),
        ),
        (
            Reason::PaymentMethodUnsupported,
            400,
            invalid(
                "The payment method type provided is not supported.",
                code("payment_method_unsupported_type"),
            ),
        ),
        (
            Reason::PriceInactive,
            400,
            invalid(
                "The price specified is inactive. This field only accepts active prices.",
                json!({ "param": "phases[0][items][0][price]" }),
            ),
        ),
        (
            Reason::PriceInactive,
            400,
            invalid(
                "Price `price_1` is not available to be purchased because its product is not active.",
                json!({ "param": "line_items[0][price]" }),
            ),
        ),
        (
            Reason::PortalNotConfigured,
            400,
            invalid(
                "No configuration provided and your test mode default configuration has not been created. Provide a \
                 configuration or create your default by saving your customer portal settings in test mode at \
                 https://dashboard.stripe.com/test/settings/billing/portal.",
                no_code.clone(),
            ),
        ),
        (
            Reason::PortalNotConfigured,
            400,
            invalid(
                "You can't create a portal session in live mode until you save your customer portal settings in live mode \
                 at https://dashboard.stripe.com/settings/billing/portal.",
                no_code.clone(),
            ),
        ),
        (
            Reason::Missing,
            400,
            invalid(
                "No such customer: 'cus_1'",
                json!({ "code": "resource_missing", "param": "customer" }),
            ),
        ),
        (
            Reason::Missing,
            404,
            invalid(
                "No such subscription: 'sub_1'",
                json!({ "code": "resource_missing", "param": "id" }),
            ),
        ),
        (
            Reason::Missing,
            400,
            invalid(
                "No such price: 'price_1'; a similar object exists in live mode, but a test mode key was used to make this \
                 request.",
                json!({ "code": "resource_missing", "param": "items[0][price]" }),
            ),
        ),
        (
            Reason::Other,
            400,
            invalid(
                "Currency and interval fields must match across all plans on this subscription. Found mismatch in interval \
                 field.",
                json!({ "param": "items" }),
            ),
        ),
        (
            Reason::Other,
            404,
            invalid("Unrecognized request URL (GET: /v1/nothing).", no_code.clone()),
        ),
        (
            Reason::Other,
            404,
            invalid(
                "No upcoming invoices for customer: cus_1",
                code("invoice_upcoming_none"),
            ),
        ),
        (
            Reason::Other,
            400,
            invalid(
                "This customer already has the maximum 500 current subscriptions.",
                code("customer_max_subscriptions"),
            ),
        ),
        (
            Reason::Other,
            400,
            invalid(
                "When using `payment_behavior=pending_if_incomplete`, `metadata` cannot be updated.",
                json!({ "param": "metadata" }),
            ),
        ),
        (
            Reason::Other,
            400,
            invalid("Received unknown parameter: colour", code("parameter_unknown")),
        ),
        (
            Reason::Other,
            400,
            json!({ "type": "idempotency_error", "message": "Keys for idempotent requests can only be used with the same parameters" }),
        ),
        (
            Reason::Other,
            400,
            invalid(
                "No active meter found for event name trendit_export.",
                json!({ "param": "event_name" }),
            ),
        ),
        (Reason::Other, 400, json!({})),
    ] {
        assert_eq!(reason(status, error.clone()), expected, "{status} {error}");
    }
}
