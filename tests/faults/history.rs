//! The history of all attempts and their outcomes: one record per attempt, in memory for the checker and in a file for people.

use std::{
    fmt,
    fs::File,
    io::{BufWriter, Write},
    path::Path,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result};
use schema::EventId;
use serde::{Deserialize, Serialize};

/// Identifies one attempt, or one event of a batch. It is sent as the request id and is stored in a column of the row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RequestId {
    pub call: u32,
    pub item: u16,
}

/// The endpoint that a client uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// `POST /v1/usage`
    Usage,
    /// One event of `POST /v1/usage/batch`.
    Batch,
    /// `ANY /api/*`
    Proxy,
    /// `GET /v1/authorize`
    Authorize,
}

/// One attempt, or one event of a batch. Times are milliseconds since the start of the suite, on one monotonic clock.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Attempt {
    #[serde(rename = "r")]
    pub request: RequestId,
    #[serde(rename = "w")]
    pub way: Way,
    #[serde(rename = "g")]
    pub gateway: usize,
    /// Index in the cast.
    #[serde(rename = "a")]
    pub account: usize,
    /// Index among the keys of the cast.
    #[serde(rename = "k")]
    pub key: usize,
    /// Index in the catalogue.
    #[serde(rename = "t")]
    pub usage_type: usize,
    #[serde(rename = "c")]
    pub cost: i64,
    /// Attempts with the same number are tries of one operation.
    #[serde(rename = "i", default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<u32>,
    #[serde(rename = "b")]
    pub invoked_ms: i64,
    #[serde(rename = "e")]
    pub completed_ms: i64,
    #[serde(rename = "o")]
    pub outcome: AttemptOutcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttemptOutcome {
    /// Charged: stored exactly once, with its units.
    Accepted { event: EventId },
    /// Admitted, but failed upstream: stored at most once, with no units.
    Failed { event: EventId, status: u16 },
    /// Definitely refused: not stored.
    Refused { status: u16, error: String },
    /// Stored once or not at all.
    Unknown(Doubt),
    /// No connection was made: not stored.
    NotSent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Doubt {
    /// `504 outcome_unknown`
    OutcomeUnknown,
    ConnectionLost,
    /// The client's timeout passed without an answer.
    NoAnswer,
    /// The client hung up on purpose.
    HungUp,
    /// `500`, or a response that cannot be parsed.
    Nonsense,
}

/// Collects the attempts of all clients. All clones write to the same history.
#[derive(Clone)]
pub struct History {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    attempts: Vec<Attempt>,
    file: BufWriter<File>,
}

impl History {
    /// Writes one JSON object per line to `path`, with one-letter names.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
        let inner = Inner {
            attempts: Vec::new(),
            file: BufWriter::new(file),
        };
        Ok(Self {
            inner: Arc::new(Mutex::new(inner)),
        })
    }

    pub fn write(&self, attempts: impl IntoIterator<Item = Attempt>) -> Result<()> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        for attempt in attempts {
            serde_json::to_writer(&mut inner.file, &attempt)?;
            inner.file.write_all(b"\n").context("writing the history")?;
            inner.attempts.push(attempt);
        }
        Ok(())
    }

    /// Takes all attempts and leaves an empty history.
    pub fn take(&self) -> Result<Vec<Attempt>> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.file.flush().context("writing the history")?;
        Ok(std::mem::take(&mut inner.attempts))
    }
}

impl Attempt {
    pub fn is_accepted(&self) -> bool {
        matches!(self.outcome, AttemptOutcome::Accepted { .. })
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}.{}", self.call, self.item)
    }
}

impl FromStr for RequestId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (call, item) = text.strip_prefix('r').and_then(|rest| rest.split_once('.')).ok_or(())?;
        Ok(Self {
            call: call.parse().map_err(|_| ())?,
            item: item.parse().map_err(|_| ())?,
        })
    }
}
