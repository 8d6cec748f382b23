//! `payment_behavior`: what happens to a change whose invoice cannot be paid at once.

use crate::form::Param;

/// What happens if the invoice of a change cannot be paid now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behavior {
    /// `allow_incomplete`: the card is charged; the change is applied even if that fails.
    Try,
    /// `default_incomplete`: the card is not charged; the customer pays the invoice.
    Wait,
    /// `error_if_incomplete`: the call fails and nothing changes.
    Refuse,
    /// `pending_if_incomplete`: the change is applied when the invoice is paid.
    Postpone,
}

impl Behavior {
    pub(crate) fn of(params: &Param) -> Self {
        match params.text("payment_behavior") {
            Some("default_incomplete") => Self::Wait,
            Some("error_if_incomplete") => Self::Refuse,
            Some("pending_if_incomplete") => Self::Postpone,
            _ => Self::Try,
        }
    }
}
