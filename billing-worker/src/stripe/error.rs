//! How a call to Stripe can fail, by what the failure proves about whether the call took effect.

use std::time::Duration;

use serde::Deserialize;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StripeError {
    /// The call had no effect, and may succeed later: no connection, a rate limit, a lock.
    #[error("Stripe accepts no calls at the moment: {why}")]
    Busy { why: String, retry_after: Option<Duration> },
    /// The call was not made: too many calls of the account, or of all accounts, wait already.
    #[error("too many calls to Stripe are waiting")]
    Full,
    /// It is unknown whether the call had an effect: no response in time, or a broken connection. It may be repeated under the same
    /// idempotency key.
    #[error("it is unknown whether the call to Stripe had an effect: {0}")]
    Unknown(String),
    /// It is unknown whether the call had an effect, and Stripe repeats this response to the same idempotency key for 24 hours.
    /// Read the object back before you try another key.
    #[error("Stripe failed with status {0}")]
    Failed(u16),
    /// A success that is not Stripe's answer to this call. The call may have had its effect, so never repeat it under another key.
    #[error("the response cannot be read as Stripe's, so the effect of the call is not known: {0}")]
    Unreadable(String),
    /// The call had no effect and never will.
    #[error("Stripe refused the call: {0}")]
    Refused(Box<Refusal>),
    /// The key is wrong, has expired or lacks a permission: an operator has to fix it.
    #[error("Stripe does not accept STRIPE_SECRET_KEY: {0}")]
    Unauthorized(String),
    /// This service was started without a key.
    #[error("Stripe is not set up: start the billing worker with STRIPE_SECRET_KEY")]
    NotConfigured,
}

/// A 4xx response, with Stripe's explanation.
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
    /// Why the bank declined a card.
    #[serde(default)]
    pub decline_code: Option<String>,
    #[serde(default)]
    pub param: Option<String>,
    #[serde(default)]
    pub message: String,
}

impl StripeError {
    /// The same call may succeed later, unchanged.
    pub fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::Busy { .. } | Self::Full | Self::Unknown(_) | Self::Failed(_)
        )
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
