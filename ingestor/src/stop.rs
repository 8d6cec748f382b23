//! Why work on a shard ends before its time.

use crate::manifests::WriteError;

#[derive(Debug, thiserror::Error)]
pub enum Stop {
    /// Another ingestor has the shard: nothing more of it may be written here.
    #[error("another ingestor took the shard over")]
    Lost,
    /// A person has to look at it. Nothing is passed over meanwhile.
    #[error("{0}")]
    Alarm(String),
    /// It may pass by itself: begin again from the manifest.
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
