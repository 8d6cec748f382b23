//! Inserts one part of a range, its events or its duplicates, as one block, and returns ClickHouse's answer. Then
//! [`verify`](super::verify) checks whether the rows are stored.

use std::time::Duration;

use clickhouse::{Client, RowWrite, error::Error};
use tokio::time::timeout;
use uuid::Uuid;

use super::{
    range::Range,
    row::{Attempt, DUPLICATES, DuplicateRow, EventRow, TABLE, duplicate_rows, event_rows},
};
use crate::stop::Stop;

/// Far above any range, so that a range is one block. A block of one partition becomes one part, which is stored whole or not at
/// all.
const BLOCK_ROWS: &str = "4194304";
const BLOCK_BYTES: &str = "4294967296";

#[derive(Clone)]
pub struct Sink {
    client: Client,
    insert_timeout: Duration,
}

/// The part of a range that goes into one table, in one insert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Events,
    Duplicates,
}

#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// A temporary failure: check whether the rows are stored, then send them again.
    #[error("{0}")]
    Retry(String),
    /// Sending the same rows again cannot help: the table, the privileges or the data must change.
    #[error("ClickHouse refuses the rows: {0}")]
    Reject(String),
}

/// Why an insert failed, or did not happen.
pub enum Failure {
    Sink(SinkError),
    /// The last check failed, so nothing was stored.
    Stop(Stop),
}

impl Sink {
    /// With a cluster, an insert is confirmed once most replicas have it, so that a later query finds it.
    pub fn new(client: Client, insert_timeout: Duration, cluster: Option<&str>) -> Self {
        let quorum = cluster.map_or([].as_slice(), |_| {
            &[("insert_quorum", "auto"), ("insert_quorum_parallel", "0")]
        });
        let settings = [
            ("async_insert", "0"),
            ("insert_deduplicate", "1"),
            ("deduplicate_blocks_in_dependent_materialized_views", "1"),
            ("max_insert_block_size", BLOCK_ROWS),
            ("min_insert_block_size_rows", BLOCK_ROWS),
            ("max_insert_block_size_bytes", BLOCK_BYTES),
            ("min_insert_block_size_bytes", BLOCK_BYTES),
            // Answer only when everything is written.
            ("wait_end_of_query", "1"),
        ];
        let client = settings
            .iter()
            .chain(quorum)
            .fold(client.with_validation(false), |client, (name, value)| {
                client.with_setting(*name, *value)
            });
        Self { client, insert_timeout }
    }

    /// Sends the rows of one part under a deduplication token. `last_check` runs when all rows are sent and the insert is not
    /// finished yet: if it fails, nothing is stored.
    pub async fn insert(
        &self,
        range: &Range,
        part: Part,
        generation: u32,
        shard: u16,
        token: &str,
        last_check: impl AsyncFnOnce() -> Result<(), Stop>,
    ) -> Result<(), Failure> {
        let attempt = Attempt {
            sealed_at_ms: range.pending.sealed_at_ms,
            insert_id: Uuid::now_v7(),
        };
        match part {
            Part::Events => {
                let rows = event_rows(range, generation, shard, attempt);
                self.send::<EventRow<'static>>(TABLE, rows, token, last_check).await
            }
            Part::Duplicates => {
                let rows = duplicate_rows(range, generation, shard, attempt);
                self.send::<DuplicateRow<'static>>(DUPLICATES, rows, token, last_check)
                    .await
            }
        }
    }

    async fn send<'r, R: RowWrite>(
        &self,
        table: &str,
        rows: impl Iterator<Item = R::Value<'r>>,
        token: &str,
        last_check: impl AsyncFnOnce() -> Result<(), Stop>,
    ) -> Result<(), Failure> {
        let client = self.client.clone().with_setting("insert_deduplication_token", token);
        let send = async {
            let mut insert = client
                .insert::<R>(table)
                .await?
                .with_timeouts(Some(self.insert_timeout), Some(self.insert_timeout));
            for row in rows {
                insert.write(&row).await?;
            }
            Ok::<_, Error>(insert)
        };
        let insert = match timeout(self.insert_timeout, send).await {
            Ok(sent) => sent.map_err(SinkError::from)?,
            Err(_) => return Err(SinkError::Retry("sending the rows took too long".to_owned()).into()),
        };
        last_check().await.map_err(Failure::Stop)?;
        insert.end().await.map_err(SinkError::from)?;
        Ok(())
    }
}

impl From<SinkError> for Failure {
    fn from(error: SinkError) -> Self {
        Self::Sink(error)
    }
}

impl From<Error> for SinkError {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        let first_line = text.lines().next().unwrap_or_default().to_owned();
        let reject = match &error {
            Error::BadResponse(answer) => code(answer).is_some_and(|code| REJECTS.contains(&code)),
            Error::InvalidParams(_)
            | Error::SequenceMustHaveLength
            | Error::Custom(_)
            | Error::SchemaMismatch(_)
            | Error::Unsupported(_) => true,
            // Connections, time-outs and everything else that is not known to be final are retried.
            _ => false,
        };
        if reject {
            Self::Reject(first_line)
        } else {
            Self::Retry(first_line)
        }
    }
}

/// Codes for wrong data, tables, settings or privileges. All others are retried: overload (202, 241, 252), time-outs (159,
/// 209), connections (210), Keeper and replicas (242, 285, 319, 999), a server that starts or stops.
///
/// Source: `ErrorCodes.cpp` of ClickHouse. None of these is retriable for its own Kafka connector either
/// (`Utils.handleException`, clickhouse-kafka-connect).
const REJECTS: [u32; 33] = [
    6,   // CANNOT_PARSE_TEXT
    16,  // NO_SUCH_COLUMN_IN_TABLE
    20,  // NUMBER_OF_COLUMNS_DOESNT_MATCH
    27,  // CANNOT_PARSE_INPUT_ASSERTION_FAILED
    36,  // BAD_ARGUMENTS
    38,  // CANNOT_PARSE_DATE
    41,  // CANNOT_PARSE_DATETIME
    43,  // ILLEGAL_TYPE_OF_ARGUMENT
    44,  // ILLEGAL_COLUMN
    47,  // UNKNOWN_IDENTIFIER
    48,  // NOT_IMPLEMENTED
    50,  // UNKNOWN_TYPE
    53,  // TYPE_MISMATCH
    60,  // UNKNOWN_TABLE
    62,  // SYNTAX_ERROR
    69,  // ARGUMENT_OUT_OF_BOUND
    70,  // CANNOT_CONVERT_TYPE
    72,  // CANNOT_PARSE_NUMBER
    73,  // UNKNOWN_FORMAT
    81,  // UNKNOWN_DATABASE
    115, // UNKNOWN_SETTING
    117, // INCORRECT_DATA
    131, // TOO_LARGE_STRING_SIZE
    192, // UNKNOWN_USER
    193, // WRONG_PASSWORD
    291, // DATABASE_ACCESS_DENIED
    321, // VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE
    349, // CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN
    441, // TABLE_IS_PERMANENTLY_READ_ONLY
    452, // SETTING_CONSTRAINT_VIOLATION
    469, // VIOLATED_CONSTRAINT
    497, // ACCESS_DENIED
    516, // AUTHENTICATION_FAILED
];

/// The number in `Code: 60. DB::Exception: …`.
fn code(answer: &str) -> Option<u32> {
    let (_, rest) = answer.split_once("Code: ")?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permanent_errors_are_rejected_and_temporary_ones_retried() {
        let answer = |text: &str| SinkError::from(Error::BadResponse(text.to_owned()));
        for wrong in [
            "Code: 469. DB::Exception: Constraint `units` is violated",
            "Code: 60. DB::Exception: Table trendit.usage_events does not exist. (UNKNOWN_TABLE)",
            "Code: 53. DB::Exception: Type mismatch",
        ] {
            assert!(matches!(answer(wrong), SinkError::Reject(_)), "{wrong}");
        }
        for passing in [
            "Code: 241. DB::Exception: Memory limit (total) exceeded",
            "Code: 252. DB::Exception: Too many parts",
            "Code: 319. DB::Exception: Unknown status",
            "<html>502 Bad Gateway</html>",
        ] {
            assert!(matches!(answer(passing), SinkError::Retry(_)), "{passing}");
        }
        assert!(matches!(SinkError::from(Error::TimedOut), SinkError::Retry(_)));
    }
}
