//! The spend cap of an account, and how a gateway says that it knows it.

use serde::{Deserialize, Serialize};

use crate::RunId;

/// The most that an account wants to pay for usage in a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpendCap {
    /// In the currency's smallest unit.
    pub cents: i64,
    /// Grows with every change.
    pub revision: i64,
}

/// A gateway's answer to [`crate::announcement::Announcement::SpendCapSet`]. Payload: JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapKnown {
    pub run_id: RunId,
    /// It admits billed usage of the account only with a lease, and all that it admitted without one is recorded. `false`: not yet.
    pub is_known: bool,
}
