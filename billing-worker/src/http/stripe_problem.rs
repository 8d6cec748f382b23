//! Failed calls to Stripe as problems. A permanent refusal is a 4xx problem in our own words, which says what to do: a client must
//! not repeat the request. A failure on our side, or one that passes, is a 503.

use problem::Kind;

use crate::stripe::{Reason, StripeError, reason};

pub(super) fn kind(error: &StripeError) -> Kind {
    let refusal = match error {
        StripeError::Refused(refusal) => refusal,
        StripeError::Unauthorized(_) | StripeError::NotConfigured => return Kind::StripeNotConfigured,
        StripeError::Full => return Kind::TooManyRequests,
        StripeError::Busy { .. } | StripeError::Unknown(_) | StripeError::Failed(_) | StripeError::Unreadable(_) => {
            return Kind::StripeUnavailable;
        }
    };
    match reason::of(refusal) {
        Reason::Key => Kind::StripeNotConfigured,
        Reason::Busy => Kind::StripeUnavailable,
        Reason::Declined | Reason::NoPaymentMethod => Kind::PaymentFailed,
        Reason::PaymentMethodUnsupported => Kind::PaymentMethodUnsupported,
        Reason::CurrencyMismatch => Kind::CurrencyMismatch,
        Reason::AmountNotChargeable => Kind::AmountNotChargeable,
        Reason::AddressMissing => Kind::BillingAddressMissing,
        Reason::PriceInactive => Kind::PriceInactive,
        Reason::PortalNotConfigured => Kind::PortalNotConfigured,
        Reason::Missing => Kind::MissingInStripe,
        Reason::Other => Kind::StripeRefused,
    }
}

/// What the client reads. Stripe's own message is only in the log: it is written for the owner of the Stripe account.
pub(super) fn detail(error: &StripeError) -> &'static str {
    match kind(error) {
        Kind::StripeNotConfigured if *error == StripeError::NotConfigured => {
            "Stripe is not set up: start the billing worker with STRIPE_SECRET_KEY"
        }
        Kind::StripeNotConfigured => "Stripe rejects the key of this service: an operator must replace it",
        Kind::PaymentFailed => "the payment failed: use another payment method (POST /billing/portal-session)",
        Kind::PaymentMethodUnsupported => {
            "the account's payment method does not allow this change now; the plan did not change: add a card (POST \
             /billing/portal-session), or change the plan with the next period (\"when\": \"period_end\")"
        }
        Kind::CurrencyMismatch => {
            "the customer has a subscription or an open item in another currency in Stripe: end it in the customer portal (POST \
             /billing/portal-session), or ask the operator"
        }
        Kind::AmountNotChargeable => {
            "the amount is too small or too large for Stripe: choose another plan, or ask the operator to change the price"
        }
        Kind::BillingAddressMissing => {
            "the tax needs a valid billing address of the customer: use the checkout, which asks for it (POST \
             /billing/create-checkout-session), or add it in the customer portal (POST /billing/portal-session)"
        }
        Kind::PriceInactive => {
            "a price of the plan or of the subscription is not active in Stripe, and the plan did not change: the operator must \
             activate it, or run `billing-worker stripe sync`"
        }
        Kind::PortalNotConfigured => {
            "the customer portal is not configured: the operator must run `billing-worker stripe sync`"
        }
        Kind::MissingInStripe => {
            "the account's customer, or another object that the request needs, is missing in Stripe: the operator must check \
             that STRIPE_SECRET_KEY belongs to the right Stripe account and mode, and run `billing-worker stripe sync`"
        }
        Kind::StripeRefused => {
            "Stripe refuses this, and a repetition does not help: report the request's id to the operator, whose log has the \
             reason"
        }
        Kind::TooManyRequests => "too many calls to Stripe are waiting: try again in a second",
        _ => "Stripe is unavailable; nothing is billed twice: try again",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stripe::error::Refusal;

    fn refused(status: u16, code: &str, message: &str) -> StripeError {
        StripeError::Refused(Box::new(Refusal {
            status,
            code: Some(code.to_owned()).filter(|code| !code.is_empty()),
            message: message.to_owned(),
            ..Refusal::default()
        }))
    }

    #[test]
    fn a_permanent_refusal_is_a_4xx_and_says_what_to_do() {
        for (error, expected, says) in [
            (
                refused(400, "amount_too_small", ""),
                Kind::AmountNotChargeable,
                "another plan",
            ),
            (refused(400, "product_inactive", ""), Kind::PriceInactive, "stripe sync"),
            (
                refused(400, "customer_tax_location_invalid", ""),
                Kind::BillingAddressMissing,
                "the checkout",
            ),
            (
                refused(400, "payment_method_unsupported_type", ""),
                Kind::PaymentMethodUnsupported,
                "add a card",
            ),
            (
                refused(400, "payment_method_currency_mismatch", ""),
                Kind::CurrencyMismatch,
                "currency",
            ),
            (
                refused(404, "resource_missing", "No such customer: 'cus_1'"),
                Kind::MissingInStripe,
                "STRIPE_SECRET_KEY",
            ),
            (
                refused(400, "", "save your customer portal settings"),
                Kind::PortalNotConfigured,
                "stripe sync",
            ),
            (
                refused(400, "customer_max_subscriptions", "500"),
                Kind::StripeRefused,
                "request's id",
            ),
        ] {
            assert_eq!(kind(&error), expected, "{error}");
            assert!(expected.status().is_client_error(), "{expected:?}");
            assert!(detail(&error).contains(says), "{}", detail(&error));
            assert!(!detail(&error).contains("try again") && !detail(&error).contains("cus_"));
        }
    }

    #[test]
    fn what_passes_or_is_our_own_fault_is_a_503() {
        let busy = StripeError::Busy {
            why: "lock".into(),
            retry_after: None,
        };
        let key = StripeError::Unauthorized("Invalid API Key provided: sk_test_x".into());
        for (error, expected) in [
            (busy, Kind::StripeUnavailable),
            (StripeError::Unknown("reset".into()), Kind::StripeUnavailable),
            (StripeError::Failed(500), Kind::StripeUnavailable),
            (StripeError::Unreadable("html".into()), Kind::StripeUnavailable),
            (StripeError::NotConfigured, Kind::StripeNotConfigured),
            (key, Kind::StripeNotConfigured),
        ] {
            assert_eq!((kind(&error), expected.status().as_u16()), (expected, 503), "{error}");
            assert!(!detail(&error).contains("sk_test"));
        }
    }
}
