//! What Stripe's answer to a meter event proves.

use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeliveryOutcome {
    /// Stripe has it.
    Delivered,
    /// This attempt had no effect, and a later one may.
    NotNow { why: String, after: Option<Duration> },
    /// It is not known whether this attempt had an effect.
    Unknown { why: String },
    /// This attempt had no effect, and none will.
    Refused { why: String },
}
