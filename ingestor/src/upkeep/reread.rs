//! Reads stored records again in bounded chunks, for audits and for raising the generation.

use crate::{
    pipeline::{content::Content, reader::Reader},
    stop::Stop,
};

/// The first of these bounds ends a chunk.
const RECORDS: usize = 5_000;
const EVENTS: usize = 50_000;
const BYTES: usize = 16 << 20;

#[derive(Debug)]
pub struct Reread {
    pub seq: u64,
    /// When the stream stored it, in milliseconds since the Unix epoch.
    pub stored_ms: i64,
    pub content: Content,
}

/// The next records up to and including `last`. Empty: there are no more.
pub async fn next(reader: &mut Reader, last: u64) -> Result<Vec<Reread>, Stop> {
    let (mut chunk, mut events, mut bytes) = (Vec::new(), 0, 0);
    while chunk.len() < RECORDS && events < EVENTS && bytes < BYTES {
        let Some(message) = reader.next_until(last).await? else {
            break;
        };
        let content = Content::of(&message.payload);
        events += content.events();
        bytes += message.payload.len();
        chunk.push(Reread {
            seq: message.seq,
            stored_ms: message.stored_ms,
            content,
        });
    }
    Ok(chunk)
}
