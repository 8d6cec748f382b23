//! Every event in the stream is a row at its position or was dropped as a duplicate, every row is at such a position, and every
//! shard is stored to its end.

use std::collections::HashMap;

use super::{Violation, Violations};
use crate::faults::evidence::Evidence;

pub(super) fn check(evidence: &Evidence, violations: &mut Violations) {
    let stream = &evidence.stream;
    let mut rows = HashMap::new();
    for row in &evidence.rows {
        if rows.insert(row.position, row).is_some() {
            violations.record(Violation::Doubled, || format!("two rows are at {:?}", row.position));
        }
    }
    for (position, event) in &stream.events {
        match (rows.get(position), stream.dropped.contains_key(position)) {
            (Some(row), false) if row.event == *event => {}
            (None, true) => {}
            (row, dropped) => violations.record(Violation::Position, || {
                format!("{event} at {position:?}: its row is {row:?}, dropped: {dropped}")
            }),
        }
    }
    for (position, row) in rows {
        // Records that were trimmed can no longer be checked.
        let from = stream.whole_from.get(&position.shard);
        let is_there = from.is_some_and(|from| position.seq >= *from);
        if is_there && !stream.events.contains_key(&position) {
            violations.record(Violation::Position, || {
                format!("a row where the stream has no event: {row:?}")
            });
        }
    }
    for (shard, (last, done_through, pending)) in stream.shards.iter().enumerate() {
        if done_through < last || *pending {
            violations.record(Violation::Position, || {
                format!("shard {shard} ends at {last} and is done through {done_through}, pending: {pending}")
            });
        }
    }
}
