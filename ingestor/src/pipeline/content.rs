//! The content of a lane message.

use schema::{
    RunId, UsageEvent,
    lane_record::{DecodeError, Kind, LaneRecord},
    usage_event::check_times,
};

#[derive(Debug)]
pub enum Content {
    /// Events, or none: an open, fence or close record.
    Events(RunId, Vec<UsageEvent>),
    /// It can never be stored, for this reason.
    Dead(String),
    /// A newer writer made it. An upgraded ingestor can read it; until then the shard must not skip it.
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
                    .find_map(|(idx, event)| Some((idx, check_times(event.period_start, event.time_ms).err()?)));
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

    /// Its events with their indices.
    pub fn indexed(&self) -> impl Iterator<Item = (u32, &UsageEvent)> {
        let events = match self {
            Self::Events(_, events) => events.as_slice(),
            Self::Dead(_) | Self::Newer(_) => &[],
        };
        (0u32..).zip(events)
    }

    /// How many rows it must have.
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
    fn damaged_records_are_dead_and_newer_ones_are_not() {
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
