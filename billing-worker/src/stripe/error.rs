//! What can go wrong with a call to Stripe, told apart by what it proves about whether the call took effect.

use std::time::Duration;

use serde::Deserialize;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StripeError {
    /// The call had no effect, and may have one later: no connection, a rate limit, a lock.
    #[error("Stripe takes no call now: {why}")]
    Busy { why: String, retry_after: Option<Duration> },
    /// Nobody knows whether it had an effect: no answer in time, or a connection that broke. Under the same idempotency key it
    /// may be asked again.
    #[error("Stripe's answer is not known: {0}")]
    Unknown(String),
    /// Nobody knows whether it had an effect, and under the same idempotency key Stripe answers the same for 24 hours: read back
    /// before another key is tried.
    #[error("Stripe failed with status {0}")]
    Failed(u16),
    /// It had its effect, and the answer could not be read. Never to be tried again under another key.
    #[error("Stripe did it, and its answer cannot be read: {0}")]
    Unreadable(String),
    /// It had no effect and never will.
    #[error("Stripe refuses: {0}")]
    Refused(Refusal),
    /// The key is wrong, has expired or may not do this: for an operator to repair.
    #[error("Stripe does not accept STRIPE_SECRET_KEY: {0}")]
    Unauthorized(String),
    /// This service was started without a key.
    #[error("Stripe is not set up: start the billing worker with STRIPE_SECRET_KEY")]
    NotConfigured,
}

/// A 4xx, as Stripe explains it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, thiserror::Error)]
#[error("{message}{}", code.as_deref().map(|code| format!(" ({code})")).unwrap_or_default())]
pub struct Refusal {
    /// HTTP status.
    #[serde(skip)]
    pub status: u16,
    #[serde(default, rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub code: Option<String>,
    #[serde(default)]
    pub param: Option<String>,
    #[serde(default)]
    pub message: String,
}

impl StripeError {
    /// The same call may succeed later, as it is.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Busy { .. } | Self::Unknown(_) | Self::Failed(_))
    }

    /// Stripe has no such object.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.is_missing())
    }
}

impl Refusal {
    pub fn is_missing(&self) -> bool {
        self.status == 404 || self.code.as_deref() == Some("resource_missing")
    }
}
