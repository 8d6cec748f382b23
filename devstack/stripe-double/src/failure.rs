//! Stripe's errors: `{"error": {"type", "code", "message", "param"}}` with a status and, where Stripe sends them, headers that
//! say whether to try again.

use std::ops::{Deref, DerefMut};

use serde_json::{Value, json};

/// Boxed, because every result contains it.
#[derive(Clone, Debug)]
pub(crate) struct Failure(Box<Details>);

#[derive(Clone, Debug)]
pub(crate) struct Details {
    pub status: u16,
    kind: &'static str,
    code: String,
    message: String,
    param: String,
    decline_code: &'static str,
    /// `Stripe-Should-Retry`.
    pub should_retry: Option<bool>,
    /// `Retry-After`, seconds.
    pub retry_after: Option<u64>,
    /// `Stripe-Rate-Limited-Reason`.
    pub limited_by: Option<&'static str>,
    /// The double lacks this feature. This is not the caller's mistake, but it fails the test.
    pub is_gap: bool,
    /// Stripe stores a response under its idempotency key only if the call began to run.
    pub is_stored: bool,
}

impl Deref for Failure {
    type Target = Details;

    fn deref(&self) -> &Details {
        &self.0
    }
}

impl DerefMut for Failure {
    fn deref_mut(&mut self) -> &mut Details {
        &mut self.0
    }
}

impl Failure {
    fn new(status: u16, kind: &'static str, message: impl Into<String>) -> Self {
        Self(Box::new(Details {
            status,
            kind,
            code: String::new(),
            message: message.into(),
            param: String::new(),
            decline_code: "",
            should_retry: None,
            retry_after: None,
            limited_by: None,
            is_gap: false,
            is_stored: true,
        }))
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(400, "invalid_request_error", message)
    }

    /// The id in the path does not exist.
    pub(crate) fn not_found(kind: &str, id: &str) -> Self {
        let failure = Self::new(404, "invalid_request_error", format!("No such {kind}: '{id}'"));
        failure.code("resource_missing").param("id")
    }

    /// The id in a parameter does not exist.
    pub(crate) fn no_such(kind: &str, id: &str) -> Self {
        Self::invalid(format!("No such {kind}: '{id}'")).code("resource_missing")
    }

    pub(crate) fn none_upcoming() -> Self {
        let failure = Self::new(404, "invalid_request_error", "No upcoming invoices for customer");
        failure.code("invoice_upcoming_none")
    }

    pub(crate) fn unknown_path(message: &str) -> Self {
        let mut failure = Self::new(
            404,
            "invalid_request_error",
            format!("Unrecognized request URL ({message})."),
        );
        failure.is_stored = false;
        failure
    }

    pub(crate) fn declined() -> Self {
        let mut failure = Self::new(402, "card_error", "Your card was declined.").code("card_declined");
        failure.decline_code = "generic_decline";
        failure
    }

    /// The invoice of a call that must be paid at once needs 3-D Secure.
    pub(crate) fn subscription_needs_action() -> Self {
        let message = "Payment for this subscription requires additional user action before it can be completed successfully. \
            Payment can be completed using the PaymentIntent associated with subscription.";
        Self::new(402, "card_error", message).code("subscription_payment_intent_requires_action")
    }

    pub(crate) fn invoice_needs_action() -> Self {
        let message = "This payment requires additional user action before it can be completed successfully. Payment can be \
            completed using the PaymentIntent associated with the invoice.";
        Self::new(402, "card_error", message).code("invoice_payment_intent_requires_action")
    }

    /// Stripe's own sentence for this refusal is not documented.
    pub(crate) fn payment_processing() -> Self {
        Self::invalid("This invoice cannot be paid now, because a payment for it is processing.")
    }

    pub(crate) fn no_payment_method() -> Self {
        let message = "This customer has no attached payment source or default payment method. Please consider adding a default \
            payment method.";
        Self::invalid(message).code("resource_missing")
    }

    /// Stripe's own sentence for this refusal is not documented.
    pub(crate) fn payment_method_unsupported(kind: &str) -> Self {
        let message =
            format!("`payment_behavior=pending_if_incomplete` cannot be used with the payment method type `{kind}`.");
        Self::invalid(message).param("payment_behavior")
    }

    pub(crate) fn currency_mismatch(bound: &str) -> Self {
        Self::invalid(format!(
            "You cannot combine currencies on a single customer. This customer has an active subscription, subscription schedule, \
            discount, quote, or invoice item with currency {bound}"
        ))
    }

    pub(crate) fn price_in_other_currency(currencies: &[&str], expected: &str) -> Self {
        let known: Vec<_> = currencies.iter().map(|currency| format!("`{currency}`")).collect();
        Self::invalid(format!(
            "The price specified only supports {}. This doesn't match the expected currency: `{expected}`.",
            known.join(", ")
        ))
    }

    pub(crate) fn tax_not_set_up() -> Self {
        Self::invalid(
            "You must have a valid head office address to enable automatic tax calculation in test mode. Visit \
            https://dashboard.stripe.com/test/settings/tax to update it.",
        )
        .param("automatic_tax[enabled]")
    }

    pub(crate) fn tax_location_invalid() -> Self {
        let message = "The customer's location isn't recognized. Set a valid customer address in order to automatically calculate tax.";
        Self::invalid(message).code("customer_tax_location_invalid")
    }

    /// The same for a checkout of a customer.
    pub(crate) fn checkout_location_missing() -> Self {
        Self::invalid(
            "Automatic tax calculation in Checkout requires a valid address on the Customer. Add a valid address to the Customer or \
            set either `customer_update[address]` to 'auto' or `customer_update[shipping]` to 'auto' to save the address entered in \
            Checkout to the Customer.",
        )
        .code("customer_tax_location_invalid")
    }

    pub(crate) fn amount_too_small() -> Self {
        let message = "The Checkout Session's total amount due must add up to at least $0.50 usd";
        Self::invalid(message).code("amount_too_small")
    }

    pub(crate) fn amount_too_large() -> Self {
        let message = "The Checkout Session's total amount due must be no more than $999,999.99";
        Self::invalid(message).code("amount_too_large")
    }

    pub(crate) fn price_inactive() -> Self {
        Self::invalid("The price specified is inactive. This field only accepts active prices.")
    }

    pub(crate) fn portal_not_configured() -> Self {
        Self::invalid(
            "No configuration provided and your test mode default configuration has not been created. Provide a configuration or \
            create your default by saving your customer portal settings in test mode at \
            https://dashboard.stripe.com/test/settings/billing/portal.",
        )
    }

    pub(crate) fn too_many_subscriptions() -> Self {
        let message = "This customer already has the maximum 500 current subscriptions.";
        Self::invalid(message).code("customer_max_subscriptions")
    }

    /// The restricted key lacks a permission.
    pub(crate) fn forbidden() -> Self {
        let message = "The provided key 'rk_test_****' does not have the required permissions for this endpoint. Having more \
            permissions would allow this request to continue.";
        let mut failure = Self::new(403, "invalid_request_error", message);
        failure.is_stored = false;
        failure
    }

    pub(crate) fn unauthorized(message: &str) -> Self {
        let mut failure = Self::new(401, "invalid_request_error", message);
        failure.is_stored = false;
        failure
    }

    pub(crate) fn conflict() -> Self {
        let message = "There is currently another in-progress request using this Idempotent Key (that probably means you \
            submitted twice, and the other request is still going through). Please try again later.";
        let mut failure = Self::new(409, "idempotency_error", message).code("idempotency_key_in_use");
        failure.should_retry = Some(true);
        failure.is_stored = false;
        failure
    }

    pub(crate) fn other_parameters(key: &str) -> Self {
        let mut failure = Self::new(
            400,
            "idempotency_error",
            format!(
                "Keys for idempotent requests can only be used with the same parameters they were first used with. Try using \
                a key other than '{key}' if you meant to execute a different request."
            ),
        );
        failure.should_retry = Some(false);
        failure.is_stored = false;
        failure
    }

    /// `limit`: the limit that was exceeded, as Stripe names it in a header.
    pub(crate) fn rate_limited(limit: &'static str) -> Self {
        let message =
            "Request rate limit exceeded. Learn more about rate limits here https://stripe.com/docs/rate-limits.";
        let mut failure = Self::new(429, "invalid_request_error", message).code("rate_limit");
        failure.limited_by = Some(limit);
        failure.is_stored = false;
        failure
    }

    pub(crate) fn lock_timeout() -> Self {
        let message = "This object cannot be accessed right now because another API request or Stripe process is currently \
            accessing it. If you see this error intermittently, retry the request. If you see this error frequently and are \
            making multiple concurrent requests to a single object, make your requests serially or at a lower rate.";
        let mut failure = Self::new(429, "invalid_request_error", message).code("lock_timeout");
        failure.limited_by = Some("resource-specific");
        failure.is_stored = false;
        failure
    }

    pub(crate) fn server_error() -> Self {
        Self::new(500, "api_error", "An unknown error occurred")
    }

    /// Valid for Stripe, but the double does not support it. It must not answer 200 without doing it.
    pub(crate) fn gap(what: &str) -> Self {
        let mut failure = Self::invalid(format!("The double does not support {what}"));
        failure.is_gap = true;
        failure
    }

    pub(crate) fn code(mut self, code: impl Into<String>) -> Self {
        self.code = code.into();
        self
    }

    pub(crate) fn param(mut self, param: impl Into<String>) -> Self {
        self.param = param.into();
        self
    }

    pub(crate) fn not_stored(mut self) -> Self {
        self.is_stored = false;
        self
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn body(&self, request_id: &str) -> Value {
        let mut error = json!({ "type": self.kind, "message": self.message,
            "request_log_url": format!("https://dashboard.stripe.com/test/workbench/logs?object={request_id}") });
        for (name, value) in [
            ("code", self.code.as_str()),
            ("param", &self.param),
            ("decline_code", self.decline_code),
        ] {
            if !value.is_empty() {
                error[name] = value.into();
            }
        }
        json!({ "error": error })
    }
}
