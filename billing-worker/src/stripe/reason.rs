//! Why Stripe did not make a call: one reason for each kind of error response. Pure.
//!
//! Stripe's errors have a type, and mostly a code (<https://docs.stripe.com/error-codes>). Some refusals of the billing API have no
//! code; only their message identifies them. If Stripe changes such a message, the reason becomes [`Reason::Other`], which is
//! still permanent.

use super::error::Refusal;

/// Everything from [`Self::NoPaymentMethod`] on is permanent: the same call fails again until someone changes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The key of this service is wrong, expired, of the other mode, or lacks a permission.
    Key,
    /// A rate limit, a lock, or a call under the same idempotency key: the same call may succeed later.
    Busy,
    /// The bank or the payment provider declined the payment, or asks the customer to confirm it.
    Declined,
    NoPaymentMethod,
    /// The kind of payment method does not allow the call, such as a bank debit for a change that waits for its payment.
    PaymentMethodUnsupported,
    /// The customer, the subscription and the prices do not have one currency.
    CurrencyMismatch,
    /// The amount is below Stripe's minimum or above its maximum.
    AmountNotChargeable,
    /// Stripe cannot calculate the tax: the customer has no valid address.
    AddressMissing,
    /// A price, or its product, is archived.
    PriceInactive,
    /// The customer portal has no configuration.
    PortalNotConfigured,
    /// An object that the call names does not exist in this Stripe account and mode.
    Missing,
    /// Any other permanent refusal.
    Other,
}

impl Reason {
    /// The name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Busy => "busy",
            Self::Declined => "declined",
            Self::NoPaymentMethod => "no_payment_method",
            Self::PaymentMethodUnsupported => "payment_method_unsupported",
            Self::CurrencyMismatch => "currency_mismatch",
            Self::AmountNotChargeable => "amount_not_chargeable",
            Self::AddressMissing => "address_missing",
            Self::PriceInactive => "price_inactive",
            Self::PortalNotConfigured => "portal_not_configured",
            Self::Missing => "missing",
            Self::Other => "other",
        }
    }
}

/// The reason of a 4xx response. The code decides; then the status and the type; then the message.
pub fn of(refusal: &Refusal) -> Reason {
    by_code(refusal.code.as_deref().unwrap_or_default())
        .or_else(|| by_status(refusal))
        .or_else(|| by_message(refusal))
        .unwrap_or(match refusal.is_missing() {
            // A 404 can also mean that Stripe does not know the path.
            true if refusal.code.as_deref().is_none_or(|code| code == "resource_missing") => Reason::Missing,
            _ => Reason::Other,
        })
}

fn by_code(code: &str) -> Option<Reason> {
    Some(match code {
        "api_key_expired"
        | "platform_api_key_expired"
        | "secret_key_required"
        | "livemode_mismatch"
        | "testmode_charges_only"
        | "account_closed"
        | "account_invalid"
        | "tls_version_unsupported" => Reason::Key,
        "rate_limit" | "lock_timeout" | "idempotency_key_in_use" | "payment_intent_rate_limit_exceeded" => Reason::Busy,
        "amount_too_small"
        | "amount_too_large"
        | "invalid_charge_amount"
        | "charge_exceeds_source_limit"
        | "charge_exceeds_transaction_limit" => Reason::AmountNotChargeable,
        "payment_method_currency_mismatch" => Reason::CurrencyMismatch,
        "payment_method_unsupported_type"
        | "payment_method_not_available"
        | "payment_method_unactivated"
        | "payment_method_restricted"
        | "payment_intent_incompatible_payment_method"
        | "invoice_no_payment_method_types"
        | "sepa_unsupported_account"
        | "invalid_card_type" => Reason::PaymentMethodUnsupported,
        "customer_tax_location_invalid" => Reason::AddressMissing,
        "product_inactive" | "sku_inactive" => Reason::PriceInactive,
        "card_declined"
        | "expired_card"
        | "expired_payment_method"
        | "insufficient_funds"
        | "incorrect_cvc"
        | "processing_error"
        | "authentication_required"
        | "invoice_payment_intent_requires_action"
        | "subscription_payment_intent_requires_action"
        | "payment_intent_action_required"
        | "payment_intent_authentication_failure"
        | "payment_intent_payment_attempt_failed"
        | "payment_intent_payment_attempt_expired"
        | "payment_intent_mandate_invalid"
        | "payment_method_bank_account_blocked"
        | "payment_method_customer_decline"
        | "payment_method_provider_decline"
        | "payment_method_provider_timeout"
        | "bank_account_declined"
        | "bank_account_restricted"
        | "bank_account_unusable"
        | "bank_account_unverified"
        | "debit_not_authorized"
        | "billing_invalid_mandate"
        | "india_recurring_payment_mandate_canceled" => Reason::Declined,
        _ => return None,
    })
}

fn by_status(refusal: &Refusal) -> Option<Reason> {
    match refusal.status {
        401 | 403 => Some(Reason::Key),
        // 409: a call under the same idempotency key is in progress. 424: a service that Stripe depends on failed.
        409 | 424 | 429 => Some(Reason::Busy),
        402 => Some(Reason::Declined),
        _ if refusal.kind == "card_error" || refusal.decline_code.is_some() => Some(Reason::Declined),
        _ => None,
    }
}

fn by_message(refusal: &Refusal) -> Option<Reason> {
    let message = refusal.message.to_lowercase();
    let has = |words: &str| message.contains(words);
    let any = |all: &[&str]| all.iter().any(|words| message.contains(words));
    if has("no attached payment source") || has("no default payment method") {
        return Some(Reason::NoPaymentMethod);
    }
    if has("portal") && any(&["configuration", "portal settings"]) {
        return Some(Reason::PortalNotConfigured);
    }
    // Not every message with this word: it also refuses parameters that cannot be combined.
    if has("pending_if_incomplete") && any(&["payment method", "bank debit", "collection_method"]) {
        return Some(Reason::PaymentMethodUnsupported);
    }
    if has("currenc") && any(&["combine", "match", "same currency"]) && !has("mismatch in interval") {
        return Some(Reason::CurrencyMismatch);
    }
    if has("price") && any(&["is inactive", "is not active", "not available to be purchased"]) {
        return Some(Reason::PriceInactive);
    }
    if message.starts_with("unrecognized request url") {
        return Some(Reason::Other);
    }
    None
}

#[cfg(test)]
mod tests;
