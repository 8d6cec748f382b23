//! Decides which runs are silent: the heartbeat has not moved for long enough, in checks that are close together. Pure.
//!
//! Only this worker's own observation counts, by its monotonic clock, not the clocks of the database or of a gateway. A gap
//! between checks starts the count again: if the database was unavailable, no gateway could move its heartbeat; if this process
//! was stopped, it saw nothing.

use std::{collections::HashMap, time::Duration};

use schema::RunId;
use tokio::time::Instant;

/// One successful check. The heartbeats were read at some time between the two instants.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    pub began: Instant,
    pub ended: Instant,
}

#[derive(Debug)]
pub struct Silence {
    dead_after: Duration,
    gap_max: Duration,
    last: Option<Look>,
    seen: HashMap<RunId, Heartbeat>,
}

#[derive(Clone, Copy, Debug)]
struct Heartbeat {
    count: i64,
    /// The heartbeat was read before this time.
    since: Instant,
}

impl Silence {
    pub fn new(dead_after: Duration, gap_max: Duration) -> Self {
        Self {
            dead_after,
            gap_max,
            last: None,
            seen: HashMap::new(),
        }
    }

    /// Takes the heartbeats of all live runs. Returns the runs that were silent for long enough, with their last heartbeat.
    pub fn observe(&mut self, look: Look, heartbeats: &[(RunId, i64)]) -> Vec<(RunId, i64)> {
        // From the start of one check to the end of the other: the longest possible time between the two reads.
        let is_gap = |last: Look| look.ended.duration_since(last.began) > self.gap_max;
        if self.last.replace(look).is_none_or(is_gap) {
            self.seen.clear();
        }
        let mut silent = Vec::new();
        let mut seen = HashMap::with_capacity(heartbeats.len());
        for (run, count) in heartbeats {
            let heartbeat = match self.seen.get(run) {
                Some(before) if before.count == *count => *before,
                _ => Heartbeat {
                    count: *count,
                    since: look.ended,
                },
            };
            if look.began.saturating_duration_since(heartbeat.since) >= self.dead_after {
                silent.push((*run, *count));
            }
            seen.insert(*run, heartbeat);
        }
        // Forget runs that are no longer live.
        self.seen = seen;
        silent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEAD_AFTER: Duration = Duration::from_secs(60);
    const GAP_MAX: Duration = Duration::from_secs(15);

    /// Checks one run at these seconds with these heartbeats. Returns the seconds at which it counted as dead.
    fn dead_at(looks: &[(u64, i64)]) -> Vec<u64> {
        let (start, run) = (Instant::now(), RunId::new());
        let mut silence = Silence::new(DEAD_AFTER, GAP_MAX);
        let dead = |(second, count): &(u64, i64)| {
            let at = start + Duration::from_secs(*second);
            let look = Look { began: at, ended: at };
            (silence.observe(look, &[(run, *count)]) == [(run, *count)]).then_some(*second)
        };
        looks.iter().filter_map(dead).collect()
    }

    fn every_five(from: u64, to: u64, count: i64) -> Vec<(u64, i64)> {
        (from..=to).step_by(5).map(|second| (second, count)).collect()
    }

    #[test]
    fn run_is_dead_when_its_heartbeat_stood_still_for_the_whole_time() {
        assert_eq!(dead_at(&every_five(0, 65, 7)), [60, 65]);
        assert_eq!(dead_at(&every_five(0, 55, 7)), [0; 0]);
        // Every change of the heartbeat counts, also a decrease, as in a restored database.
        for moved in [8, 6] {
            let looks = [every_five(0, 40, 7), every_five(45, 105, moved)].concat();
            assert_eq!(dead_at(&looks), [105]);
        }
    }

    #[test]
    fn run_that_beats_slower_than_the_looks_is_not_dead() {
        let looks: Vec<_> = (0..200).map(|n| (n * 5, i64::try_from(n / 11).unwrap())).collect();
        assert_eq!(dead_at(&looks), [0; 0]);
    }

    #[test]
    fn a_gap_between_looks_starts_the_count_again() {
        // One check before and one after a gap prove nothing, no matter how long the gap is.
        assert_eq!(dead_at(&[(0, 7), (61, 7)]), [0; 0]);
        assert_eq!(dead_at(&[(0, 7), (3_600, 7), (3_605, 7)]), [0; 0]);
        // The database was unavailable for twenty seconds in the last minute.
        let looks = [every_five(0, 35, 7), every_five(55, 115, 7)].concat();
        assert_eq!(dead_at(&looks), [115]);
    }

    #[test]
    fn a_worker_that_was_stopped_during_a_look_concludes_nothing() {
        let (start, run) = (Instant::now(), RunId::new());
        let at = |second| start + Duration::from_secs(second);
        let mut silence = Silence::new(DEAD_AFTER, GAP_MAX);
        let mut look = |began, ended| {
            let look = Look {
                began: at(began),
                ended: at(ended),
            };
            silence.observe(look, &[(run, 7)]).len()
        };
        assert_eq!(look(0, 0), 0);
        assert_eq!(look(5, 105), 0, "asked before it was stopped, answered after");
        // That check may have read the heartbeat before the stop, so it does not start the count either.
        for second in (110..170).step_by(5) {
            assert_eq!(look(second, second), 0);
        }
        assert_eq!(look(170, 170), 1);
    }

    #[test]
    fn each_run_is_judged_by_itself_and_forgotten_when_it_is_gone() {
        let (start, dead, alive) = (Instant::now(), RunId::new(), RunId::new());
        let mut silence = Silence::new(DEAD_AFTER, GAP_MAX);
        for n in 0..=12u64 {
            let at = start + Duration::from_secs(n * 5);
            let found = silence.observe(
                Look { began: at, ended: at },
                &[(dead, 3), (alive, i64::try_from(n).unwrap())],
            );
            assert_eq!(found, if n == 12 { vec![(dead, 3)] } else { vec![] });
        }
        let at = start + Duration::from_secs(65);
        assert!(silence.observe(Look { began: at, ended: at }, &[]).is_empty());
        assert!(silence.seen.is_empty());
    }
}
