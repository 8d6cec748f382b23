//! The members that only some problem types have.

use std::fmt;

use serde::Serialize;

/// Members in addition to those of every problem type. The outer `Option` says whether the member is there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Members {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage_type: Option<&'static str>,
    /// Cost units. `null`: the gateway does not know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_usage: Option<Option<i64>>,
    /// Cost units. `null`: there is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<Option<i64>>,
    /// Cost units. `null`: there is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remaining: Option<Option<i64>>,
    /// The account's spend cap, in the currency's smallest unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cap_cents: Option<i64>,
    /// What the period's usage costs so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used_cents: Option<i64>,
    /// RFC 3339. The period ends then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resets_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upgrade_url: Option<String>,
    /// The invoice that must be paid first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invoice_id: Option<String>,
    /// The page on which it can be paid, or its payment confirmed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hosted_invoice_url: Option<String>,
    /// The secret with which a payment form confirms its payment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_secret: Option<Secret>,
    /// RFC 3339. Until then the payment can be confirmed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
}

/// A text that the client gets and no log shows.
#[derive(Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}
