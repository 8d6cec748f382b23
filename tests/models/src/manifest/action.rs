//! One step of one part. An ingestor that is stopped and goes on later is one that takes no step for a while, so pauses
//! need no action of their own: between any two steps everything else may happen.

use std::fmt;

use super::state::{Insert, Token};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// `ingestor/src/shards/own.rs`, `claim_when_free`: the manifest is read, `claim.rs` says where to begin, and it is written over that
    /// revision. Whether the owner is gone is nobody's to know, so it may be taken from the living.
    Take {
        ingestor: u8,
    },
    /// `ingestor/src/pipeline/work.rs`, `seal`: a range is cut (`range.rs`), its duplicates are found, its manifest is written.
    Seal {
        ingestor: u8,
        last: u8,
    },
    /// The manifest is still ours, and the range's duplicates go into `usage_duplicates`, before its rows: so rows never
    /// speak for a range whose duplicates are not recorded.
    StoreDuplicates {
        ingestor: u8,
    },
    /// `ingestor/src/pipeline/fence.rs`, `check` and `sink.rs`, `insert`: the manifest is still ours, and the rows go out. One step:
    /// a pause between the two is an insert that is on its way for long.
    Send {
        ingestor: u8,
    },
    /// ClickHouse executes an insert: a block under its token, there or not, or nothing if it remembers the token. (One that
    /// is lost is one that is late for ever.)
    Lands(Insert),
    /// ClickHouse is killed when the token is logged and the part is not in place yet.
    Swallowed(Insert),
    /// `ingestor/src/pipeline/store.rs`, `presence` and `verify.rs`, `verdict`. Of an insert whose answer did not come, at any time.
    Look {
        ingestor: u8,
    },
    /// `ingestor/src/pipeline/work.rs`, `write`: done, and nothing pending.
    WriteDone {
        ingestor: u8,
    },
    /// A token falls out of ClickHouse's window.
    Forget(Token),
    /// Events with an Idempotency-Key so old are no duplicates any more.
    Expire,
    Crash {
        ingestor: u8,
    },
    /// `ingestor/src/upkeep/trim.rs`: what is stored leaves the stream.
    Trim,
    /// The bucket's entry is lost, with no insert on its way.
    LoseManifest,
    /// `ingestor/src/upkeep/audit.rs` and `repair.rs`: closed positions are compared with their rows; one row each is left.
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
                    "ingestor {} looks whether the shard is its own, and sends the rows",
                    name(ingestor)
                )
            }
            Self::Lands(insert) => write!(f, "ClickHouse executes the insert {insert}"),
            Self::Swallowed(insert) => {
                write!(
                    f,
                    "ClickHouse is killed in the insert {insert}: it keeps the token and not the rows"
                )
            }
            Self::Look { ingestor } => {
                write!(
                    f,
                    "ingestor {} looks what ClickHouse holds of its range",
                    name(ingestor)
                )
            }
            Self::WriteDone { ingestor } => write!(f, "ingestor {} writes how far the shard is done", name(ingestor)),
            Self::Forget(token) => write!(f, "ClickHouse forgets the token {token}"),
            Self::Expire => write!(f, "the time passes for which keys are remembered"),
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
