//! What a message of a lane holds.

use schema::{
    RunId, UsageEvent,
    lane_record::{DecodeError, Kind, LaneRecord},
};

use crate::pipeline::row;

#[derive(Debug)]
pub enum Content {
    /// Events, or none: an open, fence or close record.
    Events(RunId, Vec<UsageEvent>),
    /// Can never be stored, and why.
    Dead(String),
    /// A newer writer's: to be read after an upgrade, not before, and not to be passed over.
    Newer(String),
}

impl Content {
    pub fn of(payload: &[u8]) -> Self {
        match LaneRecord::decode(payload) {
            Ok(LaneRecord {
                run_id,
                kind: Kind::Batch { events, .. },
            }) => {
                let unfit = events
                    .iter()
                    .enumerate()
                    .find_map(|(idx, event)| Some((idx, row::check(event).err()?)));
                match unfit {
                    None => Self::Events(run_id, events),
                    Some((idx, why)) => Self::Dead(format!("event {idx} of the batch: {why}")),
                }
            }
            Ok(mark) => Self::Events(mark.run_id, Vec::new()),
            Err(newer @ DecodeError::UnknownVersion(_)) => Self::Newer(newer.to_string()),
            Err(dead @ (DecodeError::Malformed(_) | DecodeError::Event { .. })) => Self::Dead(dead.to_string()),
        }
    }

    /// How many rows it has to have.
    pub fn events(&self) -> usize {
        match self {
            Self::Events(_, events) => events.len(),
            Self::Dead(_) | Self::Newer(_) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::row::tests::event;
    use schema::BatchId;

    fn batch(events: Vec<UsageEvent>) -> Vec<u8> {
        LaneRecord {
            run_id: RunId::new(),
            kind: Kind::Batch {
                batch_id: BatchId::new(),
                events,
            },
        }
        .encode()
    }

    #[test]
    fn damage_is_dead_and_a_newer_version_is_not() {
        assert_eq!(Content::of(&batch(vec![event(1), event(2)])).events(), 2);
        assert_eq!(Content::of(&LaneRecord::close(RunId::new()).encode()).events(), 0);
        assert!(matches!(Content::of(b"\xff\xff"), Content::Dead(_)));
        assert!(matches!(Content::of(&[8, 2]), Content::Newer(_)));
        let unfit = UsageEvent {
            time_ms: i64::MAX,
            ..event(2)
        };
        assert!(matches!(Content::of(&batch(vec![event(1), unfit])), Content::Dead(why) if why.contains("event 1")));
    }
}
