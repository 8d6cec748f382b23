//! The payment of an invoice: a payment intent.

use serde_json::{Value, json};

#[derive(Clone, Debug)]
pub(crate) struct Payment {
    /// `pi_…`
    pub id: String,
    pub client_secret: String,
    pub status: Status,
    /// When a debit that is processing succeeds or fails.
    pub settles_at: Option<i64>,
    /// The bank will return the debit.
    pub bounces: bool,
    /// Why the last attempt failed.
    pub refused: Option<Refused>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    RequiresPaymentMethod,
    RequiresConfirmation,
    /// 3-D Secure.
    RequiresAction,
    Processing,
    Succeeded,
    Canceled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Card,
    /// The customer did not confirm the payment with their bank.
    Authentication,
    BankDebit,
}

impl Payment {
    pub(crate) fn is_processing(&self) -> bool {
        self.status == Status::Processing
    }
}

impl Status {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::RequiresPaymentMethod => "requires_payment_method",
            Self::RequiresConfirmation => "requires_confirmation",
            Self::RequiresAction => "requires_action",
            Self::Processing => "processing",
            Self::Succeeded => "succeeded",
            Self::Canceled => "canceled",
        }
    }
}

impl Refused {
    pub(crate) fn render(self) -> Value {
        let (kind, code, message) = match self {
            Self::Card => ("card_error", "card_declined", "Your card was declined."),
            Self::Authentication => (
                "invalid_request_error",
                "payment_intent_authentication_failure",
                "We are unable to authenticate your payment method. Please choose a different payment method and try again.",
            ),
            Self::BankDebit => (
                "invalid_request_error",
                "payment_method_bank_account_blocked",
                "The debit was returned by the customer's bank.",
            ),
        };
        let mut error = json!({ "type": kind, "code": code, "message": message });
        if self == Self::Card {
            error["decline_code"] = "generic_decline".into();
        }
        error
    }
}
