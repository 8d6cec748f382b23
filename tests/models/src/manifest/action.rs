//! One step of one part. Between any two steps everything else may happen. An ingestor that is paused and continues later is
//! one that takes no step for a while, so pauses need no action.

use std::fmt;

use super::state::{Insert, Token};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// `ingestor/src/shards/own.rs`, `claim_when_free`: reads the manifest, `claim.rs` decides where to begin, and the manifest
    /// is written over the revision that was read. Nobody can know whether the owner is dead, so the shard may be taken from a
    /// living owner.
    Take {
        ingestor: u8,
    },
    /// `ingestor/src/pipeline/work.rs`, `seal`: cuts a range (`range.rs`), finds its duplicates, and writes its manifest.
    Seal {
        ingestor: u8,
        last: u8,
    },
    /// Checks that the manifest is still ours, and stores the range's duplicates in `usage_duplicates` before its rows. So no
    /// range has rows without its duplicates being recorded.
    StoreDuplicates {
        ingestor: u8,
    },
    /// `ingestor/src/pipeline/fence.rs`, `check` and `sink.rs`, `insert`: checks that the manifest is still ours, and sends the
    /// rows. One step: a pause between the two equals an insert that is on its way for a long time.
    Send {
        ingestor: u8,
    },
    /// ClickHouse executes an insert: stores the whole block under its token, or nothing if it remembers the token. (A lost
    /// insert equals one that never arrives.)
    Lands(Insert),
    /// ClickHouse is killed after it logged the token and before it stored the part.
    Swallowed(Insert),
    /// `ingestor/src/pipeline/store.rs`, `presence` and `verify.rs`, `stored_rows`. For an insert without a response, this may
    /// happen at any time.
    Look {
        ingestor: u8,
    },
    /// `ingestor/src/pipeline/work.rs`, `write`: the range is done, and nothing is pending.
    WriteDone {
        ingestor: u8,
    },
    /// A token falls out of ClickHouse's window.
    Forget(Token),
    /// The key of an old event expires: a later event with the same Idempotency-Key is no duplicate.
    Expire,
    Crash {
        ingestor: u8,
    },
    /// `ingestor/src/upkeep/trim.rs`: stored records are removed from the stream.
    Trim,
    /// The entry in the bucket is lost while no insert is on its way.
    LoseManifest,
    /// `ingestor/src/upkeep/audit.rs` and `repair.rs`: compares closed positions with their rows and leaves one row for each.
    Audit,
}

impl Action {
    pub fn is_fault(&self) -> bool {
        matches!(
            self,
            Self::Swallowed(_) | Self::Forget(_) | Self::Crash { .. } | Self::LoseManifest | Self::Trim | Self::Expire
        )
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |n: &u8| char::from(b'A' + n);
        match self {
            Self::Take { ingestor } => write!(f, "ingestor {} takes the shard", name(ingestor)),
            Self::Seal { ingestor, last } => {
                write!(f, "ingestor {} seals a range that ends at {last}", name(ingestor))
            }
            Self::StoreDuplicates { ingestor } => {
                write!(f, "ingestor {} stores the range's duplicates", name(ingestor))
            }
            Self::Send { ingestor } => {
                write!(
                    f,
                    "ingestor {} checks that it still owns the shard, and sends the rows",
                    name(ingestor)
                )
            }
            Self::Lands(insert) => write!(f, "ClickHouse executes the insert {insert}"),
            Self::Swallowed(insert) => {
                write!(
                    f,
                    "ClickHouse is killed during the insert {insert}: it keeps the token but not the rows"
                )
            }
            Self::Look { ingestor } => {
                write!(
                    f,
                    "ingestor {} reads which rows of its range ClickHouse has",
                    name(ingestor)
                )
            }
            Self::WriteDone { ingestor } => write!(f, "ingestor {} records how far the shard is done", name(ingestor)),
            Self::Forget(token) => write!(f, "ClickHouse forgets the token {token}"),
            Self::Expire => write!(f, "the keys expire"),
            Self::Crash { ingestor } => write!(f, "ingestor {} is killed", name(ingestor)),
            Self::Trim => write!(f, "the stream is trimmed"),
            Self::LoseManifest => write!(f, "the manifest is lost"),
            Self::Audit => write!(f, "an audit makes the rows agree with the stream"),
        }
    }
}

impl fmt::Display for Insert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows: Vec<String> = self.rows.iter().map(|row| row.to_string()).collect();
        write!(f, "{} of {}", self.token, rows.join(", "))
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)?;
        match self.number {
            1 => Ok(()),
            number => write!(f, "#{number}"),
        }
    }
}
