//! Replay: the new owner of a shard stores the range that its manifest has as pending, with the same rows and the same token.

use anyhow::Context;
use protocol::storing::Tried;
use schema::{RunId, manifest::Pending};
use tracing::info;

use super::Work;
use crate::{
    pipeline::{content::Content, range::Range, reader::Reader, record::Record},
    stop::Stop,
};

impl Work<'_> {
    /// Finishes the range that the last owner left unfinished.
    pub async fn replay(&mut self) -> Result<(), Stop> {
        let Some(pending) = self.held.manifest.pending.clone() else {
            return Ok(());
        };
        info!(
            shard = self.shard,
            first = pending.first,
            last = pending.last,
            rows = pending.rows,
            "finishing a range"
        );
        // One replay at a time in this process: it holds a whole range in memory that the budget does not count.
        let _permit = self
            .ingest
            .replays
            .acquire()
            .await
            .context("waiting for other replays")?;
        let is_stored = self.ingest.store.is_stored(&pending, self.span(&pending)).await?;
        let range = if is_stored {
            None
        } else {
            let records = self.reread(&pending).await?;
            Some(
                Range::replayed(&pending, records)
                    .map_err(|why| Stop::Alarm(format!("the pending range cannot be replayed: {why}")))?,
            )
        };
        if let Some(range) = range {
            let mut storing = self.begin(range, Tried::Perhaps, None);
            let stored = storing.outcome.as_mut().await?;
            self.finish(&storing, stored);
        }
        self.done = pending.last;
        self.write(None).await
    }

    async fn reread(&self, pending: &Pending) -> Result<Vec<Record>, Stop> {
        let ingest = self.ingest;
        let generation = self.held.manifest.generation;
        let mut reader = Reader::new(
            ingest.stream.clone(),
            ingest.metrics.clone(),
            self.shard,
            generation,
            pending.first.saturating_sub(1),
        );
        let mut records = Vec::new();
        while let Some(message) = reader.next_until(pending.last).await? {
            let (run_id, events) = match Content::of(&message.payload) {
                Content::Events(run_id, events) => (run_id, events),
                // The record was stored as a dead letter before the range was sealed.
                Content::Dead(_) => (RunId::NIL, Vec::new()),
                Content::Newer(why) => return Err(Stop::Alarm(why)),
            };
            records.push(Record {
                seq: message.seq,
                run_id,
                events,
                bytes: message.payload.len() as u64,
                stored_ms: message.stored_ms,
                permit: None,
            });
        }
        Ok(records)
    }
}
