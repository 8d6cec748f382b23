//! The segment log on the disk. It is appended to at its end, removed at its front, and read from anywhere. Everything here
//! blocks.
//!
//! Batches for which [`Log::append`] has returned `Ok` are on the disk. A failed write or fsync is never repeated: what it
//! wrote is cut off, and the next append begins a new segment.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use bytes::Bytes;

use super::frame::{self, Batch, Flaw, Frame, HEADER_BYTES, Header, Owner};

const SUFFIX: &str = ".segment";

pub struct Log {
    dir: PathBuf,
    owner: Owner,
    /// A segment of this size gets no more appends.
    segment_bytes: u64,
    segments: VecDeque<Segment>,
    active: Option<Active>,
    /// Makes the file's content durable. Tests let it fail.
    sync: fn(&File) -> io::Result<()>,
}

/// The valid part of a file of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub index: u64,
    pub salt: u32,
    pub bytes: u64,
}

struct Active {
    file: File,
    salt: u32,
    bytes: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The batch is not in the log and never will be.
    #[error("writing the spool: {0}")]
    NotWritten(io::Error),
    /// The batch may be in the log: the write failed, and so did cutting it off. Nothing more can be appended.
    #[error("writing the spool failed, and so did removing the partial write: {0}")]
    Unknown(io::Error),
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("reading the spool in {}: {error}", dir.display())]
    Io { dir: PathBuf, error: io::Error },
    #[error("the spool segment {} is damaged at byte {offset} ({flaw}): acknowledged events may be lost", file.display())]
    Damaged { file: PathBuf, offset: u64, flaw: Flaw },
    #[error("the spool segment {} is missing: acknowledged events may be lost", file.display())]
    Missing { file: PathBuf },
    #[error("the spool segment {} is not of the run that its directory names", file.display())]
    Foreign { file: PathBuf },
}

/// A log that was found on the disk.
pub struct FoundLog {
    /// `None`: the log has no segment.
    pub owner: Option<Owner>,
    pub segments: Vec<Segment>,
    /// Bytes after the last complete frame. A crash cut off that write, so none of it was acknowledged.
    pub torn_bytes: u64,
}

impl Log {
    /// Creates an empty log in `dir`. The directory must exist and be empty when the first segment is written.
    pub fn new(dir: PathBuf, owner: Owner, segment_bytes: u64) -> Self {
        Self {
            dir,
            owner,
            segment_bytes,
            segments: VecDeque::new(),
            active: None,
            sync: File::sync_data,
        }
    }

    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// Bytes of all segments.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    pub fn segments(&self) -> impl Iterator<Item = Segment> {
        self.segments.iter().copied()
    }

    /// Appends all batches in one write and makes it durable.
    pub fn append(&mut self, batches: &[Batch], now_ms: i64) -> Result<(), AppendError> {
        let size = frame::frame_bytes(batches.iter().map(Batch::size).sum());
        let mut active = match self.active.take() {
            Some(active) if active.bytes + size <= self.segment_bytes.max(HEADER_BYTES as u64 + size) => active,
            _ => self.begin_segment().map_err(AppendError::NotWritten)?,
        };
        let bytes = frame::encode(batches, now_ms, active.salt, active.bytes);
        let written = active.file.write_all_at(&bytes, active.bytes);
        if let Err(failure) = written.and_then(|()| (self.sync)(&active.file)) {
            // Cut the segment back to its durable part. It is not written to again.
            let cut = active.file.set_len(active.bytes);
            return Err(match cut.and_then(|()| active.file.sync_all()) {
                Ok(()) => AppendError::NotWritten(failure),
                Err(_) => AppendError::Unknown(failure),
            });
        }
        active.bytes += bytes.len() as u64;
        if let Some(segment) = self.segments.back_mut() {
            segment.bytes = active.bytes;
        }
        self.active = Some(active);
        Ok(())
    }

    /// Checks whether the disk accepts writes again.
    pub fn probe(&mut self) -> io::Result<()> {
        if self.active.is_none() {
            self.active = Some(self.begin_segment()?);
        }
        Ok(())
    }

    /// Removes the first segment durably before any other is removed. So a crash leaves no gap.
    pub fn remove_front(&mut self) -> io::Result<()> {
        let Some(front) = self.segments.front() else {
            return Ok(());
        };
        match fs::remove_file(segment_file(&self.dir, front.index)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => sync_dir(&self.dir)?,
        }
        self.segments.pop_front();
        if self.segments.is_empty() {
            self.active = None;
        }
        Ok(())
    }

    fn begin_segment(&mut self) -> io::Result<Active> {
        let header = Header {
            owner: self.owner,
            index: self.segments.back().map_or(1, |last| last.index + 1),
            salt: crc32fast::hash(uuid::Uuid::new_v4().as_bytes()),
        };
        let path = segment_file(&self.dir, header.index);
        // Overwrite a segment that could not be completed before.
        let file = File::options().write(true).create(true).truncate(true).open(&path)?;
        let made = file.write_all_at(&header.encode(), 0).and_then(|()| file.sync_all());
        if let Err(error) = made.and_then(|()| sync_dir(&self.dir)) {
            fs::remove_file(&path).ok();
            return Err(error);
        }
        self.segments.push_back(Segment {
            index: header.index,
            salt: header.salt,
            bytes: HEADER_BYTES as u64,
        });
        Ok(Active {
            file,
            salt: header.salt,
            bytes: HEADER_BYTES as u64,
        })
    }
}

/// Reads a complete log and checks it.
pub fn find(dir: &Path) -> Result<FoundLog, OpenError> {
    let io = |error| OpenError::Io {
        dir: dir.to_owned(),
        error,
    };
    let indices = segment_indices(dir).map_err(io)?;
    let mut found = FoundLog {
        owner: None,
        segments: Vec::new(),
        torn_bytes: 0,
    };
    for (n, index) in indices.iter().enumerate() {
        let file = segment_file(dir, *index);
        if n > 0 && *index != indices[n - 1] + 1 {
            let file = segment_file(dir, index - 1);
            return Err(OpenError::Missing { file });
        }
        let bytes = Bytes::from(fs::read(&file).map_err(io)?);
        let is_last = n + 1 == indices.len();
        let header = match Header::decode(&bytes) {
            Ok(header) => header,
            // A crash interrupted its creation.
            Err(_) if is_last && bytes.len() <= HEADER_BYTES => {
                found.torn_bytes = bytes.len() as u64;
                break;
            }
            Err(flaw) => return Err(OpenError::Damaged { file, offset: 0, flaw }),
        };
        if header.index != *index || found.owner.is_some_and(|owner| owner != header.owner) {
            return Err(OpenError::Foreign { file });
        }
        found.owner = Some(header.owner);
        let whole = whole_bytes(&bytes, header.salt).or_else(|(offset, flaw)| {
            let behind = bytes.slice(usize::try_from(offset).expect("within the file in memory") + 1..);
            if !is_last || frame::has_frame(&behind, header.salt, offset + 1) {
                return Err(OpenError::Damaged { file, offset, flaw });
            }
            found.torn_bytes = bytes.len() as u64 - offset;
            Ok(offset)
        })?;
        found.segments.push(Segment {
            index: *index,
            salt: header.salt,
            bytes: whole,
        });
    }
    Ok(found)
}

/// Reads the frames of a segment from `offset` on: at least one, and about `bytes_max` in total. The bytes before
/// `segment.bytes` are complete, unless the disk has damaged them since.
pub fn read(dir: &Path, segment: Segment, offset: u64, bytes_max: usize) -> Result<(Vec<Frame>, u64), OpenError> {
    let path = segment_file(dir, segment.index);
    let io = |error| OpenError::Io {
        dir: dir.to_owned(),
        error,
    };
    let file = File::open(&path).map_err(io)?;
    let left = usize::try_from(segment.bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
    let read = |length: usize| {
        let mut bytes = vec![0; length.min(left)];
        file.read_exact_at(&mut bytes, offset).map(|()| Bytes::from(bytes))
    };
    let mut bytes = read(bytes_max).map_err(io)?;
    match frame::stated_bytes(&bytes) {
        Some(stated) if stated > bytes.len() => bytes = read(stated).map_err(io)?,
        _ => {}
    }
    let (mut frames, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        match frame::decode(&bytes.slice(at..), segment.salt, offset + at as u64) {
            Ok((frame, length)) => {
                frames.push(frame);
                at += length;
            }
            Err(Flaw::Incomplete) if !frames.is_empty() => break,
            Err(flaw) => {
                return Err(OpenError::Damaged {
                    file: path,
                    offset: offset + at as u64,
                    flaw,
                });
            }
        }
    }
    Ok((frames, offset + at as u64))
}

/// Removes the segments of a log, all of which is stored. Removes one after the other, durably, so that a crash leaves only
/// the end of the log.
pub fn remove(dir: &Path, segments: &[Segment]) -> io::Result<()> {
    for segment in segments {
        fs::remove_file(segment_file(dir, segment.index))?;
        sync_dir(dir)?;
    }
    Ok(())
}

/// Makes changes to the entries of a directory durable.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Returns the end of a segment's complete frames, or the offset of the first frame that is not complete.
fn whole_bytes(bytes: &Bytes, salt: u32) -> Result<u64, (u64, Flaw)> {
    let mut at = HEADER_BYTES;
    while at < bytes.len() {
        match frame::decode(&bytes.slice(at..), salt, at as u64) {
            Ok((_, length)) => at += length,
            Err(flaw) => return Err((at as u64, flaw)),
        }
    }
    Ok(at as u64)
}

fn segment_file(dir: &Path, index: u64) -> PathBuf {
    dir.join(format!("{index:010}{SUFFIX}"))
}

fn segment_indices(dir: &Path) -> io::Result<Vec<u64>> {
    let mut indices = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        if let Some(index) = name.to_str().and_then(|name| name.strip_suffix(SUFFIX)) {
            indices.push(
                index
                    .parse()
                    .map_err(|_| io::Error::other("a segment's name is no number"))?,
            );
        }
    }
    indices.sort_unstable();
    Ok(indices)
}

#[cfg(test)]
mod tests;
