//! Crashes at any byte, damage, and disks that fail.

use proptest::prelude::*;
use schema::{BatchId, RunId};

use super::*;

const NOW: i64 = 1_795_000_000_000;

fn owner() -> Owner {
    Owner {
        run: RunId::new(),
        generation: 1,
        shards: 4,
    }
}

/// Removed when it is dropped.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        let dir = std::env::temp_dir().join(format!("spool-{}", uuid::Uuid::new_v4()));
        fs::create_dir(&dir).unwrap();
        Self(dir)
    }

    fn log(&self, segment_bytes: u64) -> Log {
        Log::new(self.0.clone(), owner(), segment_bytes)
    }

    fn last_segment(&self) -> PathBuf {
        segment_file(&self.0, *segment_indices(&self.0).unwrap().last().unwrap())
    }

    /// Everything that a start would find.
    fn found(&self) -> Result<Vec<BatchId>, OpenError> {
        let found = find(&self.0)?;
        let mut ids = Vec::new();
        for segment in found.segments {
            let mut offset = HEADER_BYTES as u64;
            while offset < segment.bytes {
                let (frames, next) = read(&self.0, segment, offset, 100).unwrap();
                ids.extend(frames.iter().flat_map(|frame| &frame.batches).map(|batch| batch.id));
                offset = next;
            }
        }
        Ok(ids)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn batch(bytes: usize) -> Batch {
    Batch {
        shard: 1,
        id: BatchId::new(),
        empty: BatchId::NIL,
        expected: 0,
        record: vec![7; bytes].into(),
    }
}

fn ids(batches: &[Batch]) -> Vec<BatchId> {
    batches.iter().map(|batch| batch.id).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// A crash leaves any prefix of the last write, or any bytes in its place. Everything before the last write is durable.
    #[test]
    fn a_crash_at_any_byte_loses_nothing_that_was_acknowledged(
        writes in prop::collection::vec(prop::collection::vec(0usize..200, 1..4), 0..12),
        last in prop::collection::vec(0usize..200, 1..4),
        cut: prop::sample::Index,
        garbage: Option<u8>,
        removed in 0usize..4,
    ) {
        let dir = Dir::new();
        let mut log = dir.log(600);
        let mut acknowledged = Vec::new();
        for sizes in &writes {
            let batches: Vec<Batch> = sizes.iter().map(|bytes| batch(*bytes)).collect();
            log.append(&batches, NOW).unwrap();
            acknowledged.extend(ids(&batches));
        }
        let all = acknowledged.len();
        for _ in 0..removed.min(log.segments().count().saturating_sub(1)) {
            log.remove_front().unwrap();
        }
        let left = dir.found().unwrap();
        prop_assert_eq!(&left[..], &acknowledged[all - left.len()..], "a suffix in order");

        let before: u64 = log.bytes();
        let segments = log.segments().count();
        let batches: Vec<Batch> = last.iter().map(|bytes| batch(*bytes)).collect();
        log.append(&batches, NOW).unwrap();
        let file = File::options().write(true).open(dir.last_segment()).unwrap();
        let whole = file.metadata().unwrap().len();
        // The segment is new, or had content before.
        let durable = if log.segments().count() > segments { 0 } else { whole - (log.bytes() - before) };
        let keep = durable + cut.index(usize::try_from(whole - durable).unwrap()) as u64;
        file.set_len(keep).unwrap();
        if let Some(byte) = garbage.filter(|_| keep >= HEADER_BYTES as u64) {
            // The file's length was durable, but its content was not. (A header is durable before anything follows it.)
            file.write_all_at(&vec![byte; usize::try_from(whole - keep).unwrap()], keep).unwrap();
        }
        let found = dir.found().unwrap();
        prop_assert!(found == left || found == [left.clone(), ids(&batches)].concat());
    }

    #[test]
    fn damage_before_the_last_frame_is_an_error(
        sizes in prop::collection::vec(0usize..200, 3..12),
        at: prop::sample::Index,
        change in 1u8..,
    ) {
        let dir = Dir::new();
        let mut log = dir.log(600);
        let mut last_frame = 0;
        for bytes in &sizes {
            let before = log.segments().last().map(|segment| segment.bytes);
            let many = log.segments().count();
            log.append(&[batch(*bytes)], NOW).unwrap();
            last_frame = if log.segments().count() > many { HEADER_BYTES as u64 } else { before.unwrap_or(HEADER_BYTES as u64) };
        }
        // Any byte before the last frame of the last segment.
        let total = log.bytes() - (log.segments().last().unwrap().bytes - last_frame);
        let mut at = at.index(usize::try_from(total).unwrap()) as u64;
        for segment in log.segments() {
            if at >= segment.bytes {
                at -= segment.bytes;
                continue;
            }
            let path = segment_file(&dir.0, segment.index);
            let mut bytes = fs::read(&path).unwrap();
            bytes[usize::try_from(at).unwrap()] ^= change;
            fs::write(&path, bytes).unwrap();
            break;
        }
        prop_assert!(dir.found().is_err());
    }
}

#[test]
fn a_missing_segment_is_an_error() {
    let dir = Dir::new();
    let mut log = dir.log(1);
    for _ in 0..3 {
        log.append(&[batch(1)], NOW).unwrap();
    }
    fs::remove_file(segment_file(&dir.0, 2)).unwrap();
    assert!(matches!(dir.found(), Err(OpenError::Missing { .. })));
}

#[test]
fn a_failed_fsync_is_undone_and_the_next_append_begins_a_segment() {
    let dir = Dir::new();
    let mut log = dir.log(1 << 20);
    let (kept, failed, next) = (batch(10), batch(20), batch(30));
    log.append(std::slice::from_ref(&kept), NOW).unwrap();
    log.sync = |_| Err(io::Error::other("the disk is on fire"));
    assert!(matches!(log.append(&[failed], NOW), Err(AppendError::NotWritten(_))));
    assert_eq!(dir.found().unwrap(), [kept.id]);
    log.sync = File::sync_data;
    log.append(std::slice::from_ref(&next), NOW).unwrap();
    assert_eq!(log.segments().count(), 2);
    assert_eq!(dir.found().unwrap(), [kept.id, next.id]);
}

#[test]
fn segments_of_two_runs_in_one_directory_are_an_error() {
    let dir = Dir::new();
    dir.log(1).append(&[batch(1)], NOW).unwrap();
    let mut other = dir.log(1);
    other.segments.push_back(Segment {
        index: 1,
        salt: 0,
        bytes: 0,
    });
    other.append(&[batch(1)], NOW).unwrap();
    assert!(matches!(dir.found(), Err(OpenError::Foreign { .. })));
}
