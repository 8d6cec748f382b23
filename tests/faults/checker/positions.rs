//! Every event of the stream is a row at its position, or was dropped as a duplicate; every row is at such a position; every
//! shard is stored to its end.

use std::collections::HashMap;

use super::{Crime, Verdict};
use crate::faults::evidence::{Evidence, Position};

pub fn check(evidence: &Evidence, verdict: &mut Verdict) {
    let stream = &evidence.stream;
    let mut rows = HashMap::new();
    for row in &evidence.rows {
        if rows.insert(row.position, row).is_some() {
            verdict.convict(Crime::Doubled, || format!("two rows are at {:?}", row.position));
        }
    }
    for (position, event) in &stream.events {
        match (rows.get(position), stream.dropped.contains_key(position)) {
            (Some(row), false) if row.event == *event => {}
            (None, true) => {}
            (row, dropped) => verdict.convict(Crime::Position, || {
                format!("{event} at {position:?}: its row is {row:?}, dropped: {dropped}")
            }),
        }
    }
    let first = first_of_each(evidence);
    for (position, row) in rows {
        // What was trimmed cannot be looked at any more.
        let is_there = first.get(&position.shard).is_some_and(|first| position.seq >= *first);
        if is_there && !stream.events.contains_key(&position) {
            verdict.convict(Crime::Position, || {
                format!("a row where the stream has no event: {row:?}")
            });
        }
    }
    for (shard, (last, done_through, pending)) in stream.shards.iter().enumerate() {
        if done_through < last || *pending {
            verdict.convict(Crime::Position, || {
                format!("shard {shard} ends at {last} and is done through {done_through}, pending: {pending}")
            });
        }
    }
}

/// The first sequence of each shard that the stream still holds.
fn first_of_each(evidence: &Evidence) -> HashMap<u16, u64> {
    let mut first = HashMap::new();
    for Position { shard, seq, .. } in evidence.stream.events.keys() {
        first.entry(*shard).or_insert(*seq);
    }
    first
}
