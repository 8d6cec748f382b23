//! The NATS names that the services share.

use uuid::Uuid;

use crate::{AccountId, RunId};

/// The stream of lane records. Its metadata has [`META_SHARDS`] and [`META_GENERATION`].
pub const USAGE_STREAM: &str = "USAGE";
/// All lanes.
pub const USAGE_SUBJECTS: &str = "usage.v1.*.*";
/// Stream metadata: how many shards this generation of the stream has, decimal.
pub const META_SHARDS: &str = "trendit.shards";
/// Stream metadata: the generation, decimal, from 1. An operator raises it after the stream was restored or reset.
pub const META_GENERATION: &str = "trendit.generation";

/// The stream of records that could not be decoded, and its subjects.
pub const DEAD_STREAM: &str = "USAGE_DEAD";
pub const DEAD_SUBJECTS: &str = "usage.dead.*";
/// Headers of a dead letter: the reason, and the position in the stream.
pub const DEAD_REASON: &str = "Trendit-Reason";
pub const DEAD_POSITION: &str = "Trendit-Position";

/// Key-value bucket of the manifests of the shards. Entries do not expire.
pub const MANIFEST_BUCKET: &str = "ingest";
/// Key-value bucket of the live ingestors. Entries expire.
pub const MEMBER_BUCKET: &str = "ingest_members";

/// Announcements, one subject a kind: see [`crate::announcement`].
pub const ANNOUNCEMENTS: &str = "announce.v1.>";

/// The announcements that units came back to a pool.
pub const UNITS_RETURNED: &str = "announce.v1.units";

/// Gateways recall units from each other, over core NATS: see [`crate::recall`].
pub const RECALLS: &str = "quota.v1.recall";
/// Units that can be spent again at a gateway: see [`crate::recall`].
pub const CAME_BACK: &str = "quota.v1.came_back";

/// Usage notices of all accounts, over core NATS: see [`notices`].
pub const NOTICES: &str = "notices.v1.*";

/// The subject of the usage notices of an account: the same JSON that its endpoint gets, with the notice id as `Nats-Msg-Id`.
/// Each notice is published at least once. A stream that captures these subjects drops repeats.
pub fn notices(account: AccountId) -> String {
    format!("notices.v1.{account}")
}

/// The subjects of the answers to all recalls of one gateway. `asker` is a separate token of the subject.
pub fn recall_answers(asker: Uuid) -> String {
    format!("quota.v1.recalled.{asker}.*")
}

/// The subject of the answers to one recall: the reply subject of its message.
pub fn recall_answer(asker: Uuid, number: u64) -> String {
    format!("quota.v1.recalled.{asker}.{number}")
}

/// The reply subject of one [`crate::announcement::Announcement::SpendCapSet`].
pub fn caps_known(asker: Uuid) -> String {
    format!("quota.v1.cap_known.{asker}")
}

/// The lane of one run in one shard.
pub fn lane(shard: u16, run: RunId) -> String {
    format!("usage.v1.{shard}.{run}")
}

/// All lanes of one shard.
pub fn shard_lanes(shard: u16) -> String {
    format!("usage.v1.{shard}.*")
}

/// The subject of the dead letters of one shard.
pub fn dead(shard: u16) -> String {
    format!("usage.dead.{shard}")
}

/// The key of a shard in [`MANIFEST_BUCKET`].
pub fn manifest_key(shard: u16) -> String {
    format!("shard.{shard}")
}

/// The key of a shard in [`MANIFEST_BUCKET`] that says how far its records were removed from the stream.
pub fn trimmed_key(shard: u16) -> String {
    format!("trimmed.{shard}")
}

/// The shard of an account: FNV-1a over its id, modulo the number of shards. It must never change, because all events of one
/// account and one idempotency key must be in one shard.
pub fn shard_of(account: AccountId, shards: u16) -> u16 {
    let hash = account
        .0
        .as_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
    // Use the high bits, because FNV mixes them best.
    u16::try_from((hash >> 32) % u64::from(shards.max(1))).expect("less than `shards`")
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
