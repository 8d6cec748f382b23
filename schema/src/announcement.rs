//! Announcements between services, over core NATS. An announcement only speeds up a change: a service that misses one finds the
//! change in PostgreSQL within a minute.

use serde::{Deserialize, Serialize};

use crate::{AccountId, KeyId, names};

/// Payload: JSON. Subject: [`Announcement::subject`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Announcement {
    /// The account's status, plan, period, limits or overrides changed.
    AccountChanged { account_id: AccountId },
    /// A key was created, revoked or changed.
    KeyChanged { key_id: KeyId, account_id: AccountId },
    /// Units of the account can be spent again (after a release, a settlement or a correction): remembered refusals are
    /// outdated.
    UnitsReturned { account_id: AccountId },
    /// The account's spend cap was set. Each gateway reads the account again, and answers on the message's reply subject with a
    /// [`crate::spend_cap::CapKnown`].
    SpendCapSet { account_id: AccountId, revision: i64 },
}

impl Announcement {
    pub fn subject(&self) -> &'static str {
        match self {
            Self::AccountChanged { .. } => "announce.v1.account",
            Self::KeyChanged { .. } => "announce.v1.key",
            Self::UnitsReturned { .. } => names::UNITS_RETURNED,
            Self::SpendCapSet { .. } => "announce.v1.spend_cap",
        }
    }
}
