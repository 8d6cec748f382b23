//! Why work on a shard ends early.

use crate::manifests::WriteError;

#[derive(Debug, thiserror::Error)]
pub enum Stop {
    /// Another ingestor owns the shard: this one must write nothing more of it.
    #[error("another ingestor took the shard over")]
    Lost,
    /// ClickHouse lacks rows of records from this sequence on that were stored: claim the shard again, and store them first.
    #[error("ClickHouse lacks rows of records from {0} on that were stored")]
    Behind(u64),
    /// An operator must look at it. Meanwhile nothing is skipped.
    #[error("{0}")]
    Alarm(String),
    /// A temporary failure: start again from the manifest.
    #[error("{0:#}")]
    Trouble(#[from] anyhow::Error),
}

impl From<WriteError> for Stop {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Lost => Self::Lost,
            trouble @ WriteError::Trouble(_) => Self::Trouble(trouble.into()),
        }
    }
}
