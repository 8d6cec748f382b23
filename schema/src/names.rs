//! Names that services meet at in NATS.

use uuid::Uuid;

use crate::{AccountId, RunId};

/// The stream of lane records. Its metadata says how it is cut ([`META_SHARDS`], [`META_GENERATION`]).
pub const USAGE_STREAM: &str = "USAGE";
/// All lanes.
pub const USAGE_SUBJECTS: &str = "usage.v1.*.*";
/// Stream metadata: how many shards this generation of the stream has, decimal.
pub const META_SHARDS: &str = "trendit.shards";
/// Stream metadata: the generation, decimal, from 1. Raised by an operator when the stream was restored or reset.
pub const META_GENERATION: &str = "trendit.generation";

/// The stream of what could never be decoded, and its subjects.
pub const DEAD_STREAM: &str = "USAGE_DEAD";
pub const DEAD_SUBJECTS: &str = "usage.dead.*";
/// Headers of a dead letter: why, and where it stood.
pub const DEAD_REASON: &str = "Trendit-Reason";
pub const DEAD_POSITION: &str = "Trendit-Position";

/// Key-value bucket of the shards' manifests, kept without end.
pub const MANIFEST_BUCKET: &str = "ingest";
/// Key-value bucket of the ingestors that are there; entries expire.
pub const MEMBER_BUCKET: &str = "ingest_members";

/// Announcements, one subject a kind: see [`crate::announcement`].
pub const ANNOUNCEMENTS: &str = "announce.v1.>";

/// Announcements that units came back to a pool, of all of [`ANNOUNCEMENTS`].
pub const UNITS_RETURNED: &str = "announce.v1.units";

/// Gateways recall units from each other, over core NATS: see [`crate::recall`].
pub const RECALLS: &str = "quota.v1.recall";
/// Units that can be spent again at a gateway: see [`crate::recall`].
pub const CAME_BACK: &str = "quota.v1.came_back";

/// Usage notices of all accounts, over core NATS: see [`notices`].
pub const NOTICES: &str = "notices.v1.*";

/// Where an account's usage notices are published: the JSON that its endpoint gets, with `Nats-Msg-Id` naming the notice. At
/// least once each: a stream that captures these subjects drops what comes twice.
pub fn notices(account: AccountId) -> String {
    format!("notices.v1.{account}")
}

/// Where answers to all recalls of one asker go. `asker` is one token, of its own making.
pub fn recall_answers(asker: Uuid) -> String {
    format!("quota.v1.recalled.{asker}.*")
}

/// Where answers to one recall go, as its message's reply subject says.
pub fn recall_answer(asker: Uuid, number: u64) -> String {
    format!("quota.v1.recalled.{asker}.{number}")
}

/// The lane of one run in one shard.
pub fn lane(shard: u16, run: RunId) -> String {
    format!("usage.v1.{shard}.{run}")
}

/// All lanes of one shard.
pub fn shard_lanes(shard: u16) -> String {
    format!("usage.v1.{shard}.*")
}

/// Where a dead letter of one shard goes.
pub fn dead(shard: u16) -> String {
    format!("usage.dead.{shard}")
}

/// A shard's entry in [`MANIFEST_BUCKET`].
pub fn manifest_key(shard: u16) -> String {
    format!("shard.{shard}")
}

/// The shard of an account: FNV-1a over its id, modulo the number of shards. Fixed for ever: all events of one account and
/// one idempotency key must meet in one shard.
pub fn shard_of(account: AccountId, shards: u16) -> u16 {
    let hash = account
        .0
        .as_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
    // The high bits: FNV mixes them best.
    ((hash >> 32) % u64::from(shards.max(1))) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_even_and_never_move() {
        let mut counts = [0u32; 8];
        for n in 0..8_000u128 {
            counts[usize::from(shard_of(AccountId(Uuid::from_u128(n << 64 | n)), 8))] += 1;
        }
        assert!(counts.iter().all(|count| (800..1_200).contains(count)), "{counts:?}");
        let account = AccountId(Uuid::from_u128(0x0193_5a6e_7c00_7000_8000_0000_0000_0001));
        assert_eq!([1, 8, 64].map(|shards| shard_of(account, shards)), [0, 5, 13]);
    }
}
