//! The members that only some problem types have.

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
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upgrade_url: Option<String>,
}
