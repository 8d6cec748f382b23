//! `payment_behavior`: what happens to a change whose invoice cannot be paid at once.

use crate::form::Param;

/// `payment_behavior`: what becomes of an invoice that cannot be paid at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behavior {
    /// `allow_incomplete`: the card is tried, the change stands either way.
    Try,
    /// `default_incomplete`: somebody has to pay the invoice.
    Wait,
    /// `error_if_incomplete`: nothing changes.
    Refuse,
    /// `pending_if_incomplete`: the change waits for the payment.
    Postpone,
}

impl Behavior {
    pub fn of(params: &Param) -> Self {
        match params.text("payment_behavior") {
            Some("default_incomplete") => Self::Wait,
            Some("error_if_incomplete") => Self::Refuse,
            Some("pending_if_incomplete") => Self::Postpone,
            _ => Self::Try,
        }
    }
}
