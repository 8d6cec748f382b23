//! What services tell each other in passing, over core NATS. An announcement makes a change quick, never true: whoever misses
//! one finds the same in Postgres within a minute.

use serde::{Deserialize, Serialize};

use crate::{AccountId, KeyId, names};

/// Payload: JSON. Subject: [`Announcement::subject`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Announcement {
    /// The account's status, plan, period, limits or overrides changed.
    AccountChanged { account_id: AccountId },
    /// A key was made, revoked or changed.
    KeyChanged { key_id: KeyId, account_id: AccountId },
    /// Units of the account that were spent or reserved can be spent again (release, settle, correction): refusals
    /// remembered for it are void.
    UnitsReturned { account_id: AccountId },
}

impl Announcement {
    pub fn subject(&self) -> &'static str {
        match self {
            Self::AccountChanged { .. } => "announce.v1.account",
            Self::KeyChanged { .. } => "announce.v1.key",
            Self::UnitsReturned { .. } => names::UNITS_RETURNED,
        }
    }
}
