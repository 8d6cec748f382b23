//! The byte format of a spool: the header of a segment file, and the layout of the batches of one write. Pure.
//!
//! | | |
//! |---|---|
//! | segment | header (48 bytes), then frames |
//! | header | magic 8, run 16, generation 4, shards 2, zero 2, index 8, salt 4, CRC-32 of everything before it 4 |
//! | frame | payload's length 4, CRC-32 4, payload |
//! | payload | when it was appended (Unix ms) 8, then batches to its end |
//! | batch | shard 2, batch id 16, empty batch's id 16, expected sequence 8, record's length 4, record |
//!
//! Integers are little-endian. **One write is one frame**, and each is on the disk before the next begins. So a crash can
//! only tear the last frame. An incomplete frame with a complete one after it is damage. A frame's CRC also covers the
//! segment's salt and the frame's offset, so data from clients can never look like a frame.

use bytes::Bytes;
use protocol::spool_state::Spooled;
use schema::{BatchId, RunId};
use uuid::Uuid;

pub const HEADER_BYTES: usize = 48;
const MAGIC: &[u8; 8] = b"TRSPOOL\x01";
const FRAME_HEAD_BYTES: usize = 8;
const BATCH_HEAD_BYTES: usize = 2 + 16 + 16 + 8 + 4;
/// The maximum size of a frame's payload: a few writes of batches, each smaller than the NATS limit (64 MiB at most).
const PAYLOAD_BYTES_MAX: usize = 256 << 20;

/// The owner of a spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    pub run: RunId,
    /// The generation of the stream that has the run's lanes.
    pub generation: u32,
    pub shards: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub owner: Owner,
    /// Counts from 1, without gaps.
    pub index: u64,
    /// Random.
    pub salt: u32,
}

/// One batch in the spool, with everything needed to publish it and to find out whether it was published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    pub shard: u16,
    pub id: BatchId,
    /// The id of the empty batch that may have been stored in its place before it was spooled ([`BatchId::NIL`]: none).
    pub empty: BatchId,
    /// The lane's last sequence before this batch, if everything before it in the lane was stored. 0: it follows another
    /// batch of the spool.
    pub expected: u64,
    /// The lane record, ready to be published.
    pub record: Bytes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// In Unix milliseconds.
    pub appended_at_ms: i64,
    pub batches: Vec<Batch>,
}

/// The error in the bytes at an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    #[error("it ends in the middle")]
    Incomplete,
    #[error("its checksum is wrong")]
    Checksum,
    #[error("its content is malformed")]
    Malformed,
}

impl Header {
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(self.owner.run.0.as_bytes());
        bytes.extend_from_slice(&self.owner.generation.to_le_bytes());
        bytes.extend_from_slice(&self.owner.shards.to_le_bytes());
        bytes.extend_from_slice(&[0; 2]);
        bytes.extend_from_slice(&self.index.to_le_bytes());
        bytes.extend_from_slice(&self.salt.to_le_bytes());
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        bytes.try_into().expect("the lengths above are 48 together")
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, Flaw> {
        let mut header = bytes.get(..HEADER_BYTES).ok_or(Flaw::Incomplete)?;
        let computed = crc32fast::hash(&header[..HEADER_BYTES - 4]);
        let header = &mut header;
        let is_ours = take(header, MAGIC.len()) == Some(MAGIC);
        let read = (|| {
            let run = RunId(id(header)?);
            let (generation, shards) = (u32(header)?, u16(header)?);
            take(header, 2)?;
            let (index, salt, crc) = (u64(header)?, u32(header)?, u32(header)?);
            let owner = Owner {
                run,
                generation,
                shards,
            };
            Some((Self { owner, index, salt }, crc))
        })();
        match read {
            Some((header, crc)) if crc == computed && is_ours => Ok(header),
            Some((_, crc)) if crc == computed => Err(Flaw::Malformed),
            _ => Err(Flaw::Checksum),
        }
    }
}

impl Batch {
    /// Its size in a frame, in bytes.
    pub fn size(&self) -> usize {
        BATCH_HEAD_BYTES + self.record.len()
    }
}

impl From<&Batch> for Spooled {
    fn from(batch: &Batch) -> Self {
        Self {
            batch: batch.id,
            empty: batch.empty,
            expected: batch.expected,
        }
    }
}

/// The size of a frame whose batches have `size` bytes in total.
pub fn frame_bytes(size: usize) -> u64 {
    (FRAME_HEAD_BYTES + 8 + size) as u64
}

/// Encodes a frame for `offset` of the segment with this salt.
pub fn encode<'a>(
    batches: impl IntoIterator<Item = &'a Batch>,
    appended_at_ms: i64,
    salt: u32,
    offset: u64,
) -> Vec<u8> {
    let mut bytes = vec![0; FRAME_HEAD_BYTES];
    bytes.extend_from_slice(&appended_at_ms.to_le_bytes());
    for batch in batches {
        bytes.extend_from_slice(&batch.shard.to_le_bytes());
        bytes.extend_from_slice(batch.id.0.as_bytes());
        bytes.extend_from_slice(batch.empty.0.as_bytes());
        bytes.extend_from_slice(&batch.expected.to_le_bytes());
        bytes.extend_from_slice(&length_u32(&batch.record).to_le_bytes());
        bytes.extend_from_slice(&batch.record);
    }
    let payload = &bytes[FRAME_HEAD_BYTES..];
    let (length, crc) = (length_u32(payload), checksum(payload, salt, offset));
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes[4..FRAME_HEAD_BYTES].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Decodes the first frame of `bytes`, which begin at `offset` of the segment. Returns the frame and its length.
pub fn decode(bytes: &Bytes, salt: u32, offset: u64) -> Result<(Frame, usize), Flaw> {
    let length = length(bytes).ok_or(Flaw::Incomplete)?;
    if !(8..=PAYLOAD_BYTES_MAX).contains(&length) {
        return Err(Flaw::Malformed);
    }
    let end = FRAME_HEAD_BYTES + length;
    if bytes.len() < end {
        return Err(Flaw::Incomplete);
    }
    let mut head = &bytes[4..FRAME_HEAD_BYTES];
    let payload = bytes.slice(FRAME_HEAD_BYTES..end);
    if u32(&mut head) != Some(checksum(&payload, salt, offset)) {
        return Err(Flaw::Checksum);
    }
    Ok((read_payload(&payload).ok_or(Flaw::Malformed)?, end))
}

/// Returns the size that the first frame of `bytes` says it has.
pub fn stated_bytes(bytes: &[u8]) -> Option<usize> {
    Some(FRAME_HEAD_BYTES + length(bytes)?.min(PAYLOAD_BYTES_MAX))
}

/// Whether there is a complete frame anywhere in `bytes`, which begin at `offset` of the segment.
pub fn has_frame(bytes: &Bytes, salt: u32, offset: u64) -> bool {
    (0..bytes.len()).any(|at| decode(&bytes.slice(at..), salt, offset + at as u64).is_ok())
}

fn read_payload(payload: &Bytes) -> Option<Frame> {
    let mut rest = &payload[..];
    let appended_at_ms = u64(&mut rest)?.cast_signed();
    let mut batches = Vec::new();
    while !rest.is_empty() {
        let (shard, batch, empty) = (u16(&mut rest)?, id(&mut rest)?, id(&mut rest)?);
        let (expected, length) = (u64(&mut rest)?, u32(&mut rest)?);
        let record = take(&mut rest, length as usize)?;
        batches.push(Batch {
            shard,
            id: BatchId(batch),
            empty: BatchId(empty),
            expected,
            record: payload.slice_ref(record),
        });
    }
    Some(Frame {
        appended_at_ms,
        batches,
    })
}

fn length(bytes: &[u8]) -> Option<usize> {
    let mut head = bytes.get(..FRAME_HEAD_BYTES)?;
    Some(u32(&mut head)? as usize)
}

/// Records and frames are limited to a few megabytes.
fn length_u32(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("less than 4 GiB")
}

fn checksum(payload: &[u8], salt: u32, offset: u64) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&salt.to_le_bytes());
    hasher.update(&offset.to_le_bytes());
    hasher.update(&length_u32(payload).to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}

fn take<'a>(bytes: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(n)?;
    *bytes = rest;
    Some(taken)
}

fn u16(bytes: &mut &[u8]) -> Option<u16> {
    Some(u16::from_le_bytes(take(bytes, 2)?.try_into().ok()?))
}

fn u32(bytes: &mut &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(take(bytes, 4)?.try_into().ok()?))
}

fn u64(bytes: &mut &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(take(bytes, 8)?.try_into().ok()?))
}

fn id(bytes: &mut &[u8]) -> Option<Uuid> {
    Uuid::from_slice(take(bytes, 16)?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn batch(record: Vec<u8>) -> Batch {
        Batch {
            shard: 3,
            id: BatchId::new(),
            empty: BatchId::NIL,
            expected: 7,
            record: record.into(),
        }
    }

    proptest! {
        #[test]
        fn a_written_frame_is_read_back(records: Vec<Vec<u8>>, salt: u32, offset: u64, behind: Vec<u8>) {
            let batches: Vec<Batch> = records.into_iter().map(batch).collect();
            let mut bytes = encode(&batches, 12, salt, offset);
            let size: usize = batches.iter().map(Batch::size).sum();
            prop_assert_eq!(bytes.len() as u64, frame_bytes(size));
            let length = bytes.len();
            bytes.extend_from_slice(&behind);
            let (frame, read) = decode(&bytes.into(), salt, offset).unwrap();
            prop_assert_eq!(read, length);
            prop_assert_eq!(frame, Frame { appended_at_ms: 12, batches });
        }

        #[test]
        fn a_changed_byte_is_noticed(record: Vec<u8>, at: prop::sample::Index, change in 1u8..) {
            let mut bytes = encode(&[batch(record)], 12, 5, 48);
            let at = at.index(bytes.len());
            bytes[at] ^= change;
            prop_assert!(decode(&bytes.into(), 5, 48).is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            drop(decode(&bytes.clone().into(), 0, 0));
            prop_assert!(Header::decode(&bytes).is_err());
        }
    }

    #[test]
    fn a_frame_is_valid_only_at_its_offset() {
        let bytes = Bytes::from(encode(&[batch(vec![1, 2, 3])], 12, 5, 48));
        assert!(decode(&bytes, 5, 49).is_err());
        assert!(decode(&bytes, 6, 48).is_err());
        assert!(has_frame(&bytes, 5, 48));
        assert!(!has_frame(&bytes.slice(1..), 5, 49));
    }

    #[test]
    fn a_header_names_its_owner_or_is_refused() {
        let header = Header {
            owner: Owner {
                run: RunId::new(),
                generation: 2,
                shards: 8,
            },
            index: 9,
            salt: 77,
        };
        let bytes = header.encode();
        assert_eq!(Header::decode(&bytes), Ok(header));
        assert_eq!(Header::decode(&bytes[..47]), Err(Flaw::Incomplete));
        for at in 0..HEADER_BYTES {
            let mut damaged = bytes;
            damaged[at] ^= 1;
            assert!(Header::decode(&damaged).is_err(), "{at}");
        }
    }
}
