//! Typed ids: 128 bits each, a UUID in text, SQL and JSON, sixteen bytes on the wire.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A text is not an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoId;

impl fmt::Display for NoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("must be an id such as 01a226fb-3663-7038-a800-edf3f7f7fd33")
    }
}

impl std::error::Error for NoId {}

macro_rules! id {
    ($($(#[$doc:meta])* $name:ident)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// The absent id: all bits zero.
            pub const NIL: Self = Self(Uuid::nil());

            /// A new id. Ids sort by creation time (UUID version 7).
            #[expect(clippy::new_without_default, reason = "two calls differ, so it is no default")]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }

            pub fn is_nil(&self) -> bool {
                self.0.is_nil()
            }

            /// From sixteen bytes. No bytes mean [`Self::NIL`], because protobuf omits empty fields.
            pub(crate) fn from_wire(bytes: &[u8]) -> Option<Self> {
                match bytes.len() {
                    0 => Some(Self::NIL),
                    16 => Uuid::from_slice(bytes).ok().map(Self),
                    _ => None,
                }
            }

            /// Sixteen bytes, or none for [`Self::NIL`].
            pub(crate) fn to_wire(self) -> Vec<u8> {
                if self.is_nil() { Vec::new() } else { self.0.as_bytes().to_vec() }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl FromStr for $name {
            type Err = NoId;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(text).map(Self).map_err(|_| NoId)
            }
        }

        impl From<Uuid> for $name {
            fn from(uuid: Uuid) -> Self {
                Self(uuid)
            }
        }

        impl From<$name> for Uuid {
            fn from(id: $name) -> Uuid {
                id.0
            }
        }
    )*};
}

id! {
    /// A customer of the API. It owns keys, a plan and counters.
    AccountId
    /// The public half of an API key. Only the hash of the secret half is stored.
    KeyId
    /// A subscription to a plan. Free accounts without one carry [`SubscriptionId::NIL`].
    SubscriptionId
    /// One usage event: an acknowledged request counts as one event, once.
    EventId
    /// One start of one writer to the stream: a gateway, or a billing worker that publishes corrections. It owns lanes and leases.
    RunId
    /// Units that a run took from a quota pool to spend without asking again.
    LeaseId
    /// One message of a lane that carries events.
    BatchId
}

impl EventId {
    /// The event id of a request with an `Idempotency-Key` (UUID version 5). The same account and key give the same id in every
    /// gateway, so that any gateway recognises a retry.
    pub fn of_idempotency_key(account: AccountId, key: &str) -> Self {
        Self(Uuid::new_v5(&account.0, key.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idempotency_key_names_one_event_for_each_account() {
        let (a, b) = (AccountId::new(), AccountId::new());
        assert_eq!(EventId::of_idempotency_key(a, "k"), EventId::of_idempotency_key(a, "k"));
        assert_ne!(EventId::of_idempotency_key(a, "k"), EventId::of_idempotency_key(b, "k"));
        assert_ne!(EventId::of_idempotency_key(a, "k"), EventId::of_idempotency_key(a, "K"));
    }

    #[test]
    fn wire_form_is_sixteen_bytes_or_none() {
        let id = LeaseId::new();
        assert_eq!(LeaseId::from_wire(&id.to_wire()), Some(id));
        assert_eq!(LeaseId::from_wire(&[]), Some(LeaseId::NIL));
        assert_eq!(LeaseId::from_wire(&[1; 15]), None);
        assert!(LeaseId::NIL.to_wire().is_empty());
    }
}
