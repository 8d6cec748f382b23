//! Reads the batches of a log in order, some at a time.

use std::{collections::VecDeque, path::PathBuf};

use super::{
    frame::{Batch, HEADER_BYTES},
    log::{self, OpenError, Segment},
};

/// The approximate size of one read.
const CHUNK_BYTES: usize = 1 << 20;

pub struct Reader {
    dir: PathBuf,
    /// The current segment; `offset` is the read position in it.
    segment: Option<Segment>,
    offset: u64,
    read: VecDeque<Read>,
}

/// A batch and its position in the log.
pub struct Read {
    pub batch: Batch,
    pub segment: u64,
    pub appended_at_ms: i64,
}

impl Reader {
    pub fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            segment: None,
            offset: 0,
            read: VecDeque::new(),
        }
    }

    /// The index of the segment that is being read. All segments before it were read completely.
    pub fn segment(&self) -> u64 {
        let waiting = self.read.front().map(|read| read.segment);
        waiting.or(self.segment.map(|segment| segment.index)).unwrap_or(0)
    }

    /// Returns the next batch of a log that currently has these segments. `None`: there are no more batches. If the future
    /// is dropped, the next call reads the same again.
    pub async fn next(&mut self, segments: &[Segment]) -> Result<Option<Read>, OpenError> {
        loop {
            if let Some(read) = self.read.pop_front() {
                return Ok(Some(read));
            }
            let Some(segment) = self.advance(segments) else {
                return Ok(None);
            };
            let (dir, offset) = (self.dir.clone(), self.offset);
            let reading = tokio::task::spawn_blocking(move || log::read(&dir, segment, offset, CHUNK_BYTES));
            let (frames, next) = match reading.await {
                Ok(read) => read?,
                // The runtime is being shut down.
                Err(_) => return Ok(None),
            };
            self.offset = next;
            for frame in frames {
                self.read.extend(frame.batches.into_iter().map(|batch| Read {
                    batch,
                    segment: segment.index,
                    appended_at_ms: frame.appended_at_ms,
                }));
            }
        }
    }

    /// Returns the segment that has more to read.
    fn advance(&mut self, segments: &[Segment]) -> Option<Segment> {
        let at = self.segment.map_or(0, |segment| segment.index);
        for segment in segments.iter().filter(|segment| segment.index >= at) {
            if self.segment.is_none_or(|read| read.index != segment.index) {
                self.offset = HEADER_BYTES as u64;
            }
            self.segment = Some(*segment);
            if self.offset < segment.bytes {
                return Some(*segment);
            }
        }
        None
    }
}
