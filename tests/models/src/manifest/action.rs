//! One step of one part. Between any two steps everything else may happen. An ingestor that is paused and continues later is
//! one that takes no step for a while, so pauses need no action.

use std::fmt;

use super::state::{EntryWrite, Insert, Token};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// `ingestor/src/shards/own.rs`, `claim_when_free`: reads the manifest, [`protocol::claim`] decides where to begin, and the manifest
    /// is written over the revision that was read. Nobody can know whether the owner is dead, so the shard may be taken from a
    /// living owner.
    Take {
        ingestor: u8,
        response: Response,
    },
    /// `ingestor/src/pipeline/work.rs`, `seal`: finds the duplicates among the gathered records, cuts and seals a range
    /// ([`protocol::duplicates`], [`protocol::range`]), and writes its manifest ([`protocol::compare_and_set`]).
    Seal {
        ingestor: u8,
        last: u8,
        response: Response,
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
        response: Response,
    },
    /// The bucket stores an entry whose writer no longer waits for the response.
    EntryLands(EntryWrite),
    /// `ingestor/src/manifests.rs`, `write_resolved`: reads the entry to learn the outcome of a write.
    ReadEntry {
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

/// Whether the writer of an entry gets the response of the bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    Received,
    /// The entry may reach the bucket at any later time, or never.
    Lost,
}

impl Action {
    pub fn is_fault(&self) -> bool {
        match self {
            Self::Swallowed(_) | Self::Forget(_) | Self::Crash { .. } => true,
            Self::LoseManifest | Self::Trim | Self::Expire => true,
            Self::Take { response, .. } | Self::Seal { response, .. } | Self::WriteDone { response, .. } => {
                *response == Response::Lost
            }
            _ => false,
        }
    }
}

impl fmt::Display for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Received => "",
            Self::Lost => "; the response of the bucket is lost",
        })
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |n: &u8| char::from(b'A' + n);
        match self {
            Self::Take { ingestor, response } => write!(f, "ingestor {} takes the shard{response}", name(ingestor)),
            Self::Seal {
                ingestor,
                last,
                response,
            } => {
                write!(
                    f,
                    "ingestor {} seals a range that ends at {last}{response}",
                    name(ingestor)
                )
            }
            Self::EntryLands(write) => write!(f, "a delayed entry of ingestor {} is stored", name(&write.writer)),
            Self::ReadEntry { ingestor } => {
                write!(f, "ingestor {} reads whether its entry is stored", name(ingestor))
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
            Self::WriteDone { ingestor, response } => {
                write!(
                    f,
                    "ingestor {} records how far the shard is done{response}",
                    name(ingestor)
                )
            }
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
