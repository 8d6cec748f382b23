//! Metered usage: sums by customer, event name and second, and the identifiers of exactly the last 24 hours.

use std::collections::{BTreeMap, HashMap, VecDeque};

/// Stripe guarantees at least this. The double keeps identifiers for exactly this long, so that code that relies on more fails.
pub(crate) const REMEMBERED_S: i64 = 24 * 3_600;

#[derive(Debug, Default)]
pub(crate) struct Usage {
    counters: HashMap<Counted, Counter>,
    identifiers: HashMap<String, Recorded>,
    /// In the order of receipt, to find the expired ones.
    received: VecDeque<(i64, String)>,
    /// By the time at which they appear in the summaries.
    lagging: VecDeque<(i64, Counted, i64, i64)>,
}

/// (customer, event name)
pub(crate) type Counted = (String, String);

#[derive(Debug, Default)]
struct Counter {
    /// Units by Unix second.
    all: BTreeMap<i64, i64>,
    summarized: BTreeMap<i64, i64>,
}

#[derive(Clone, Debug)]
struct Recorded {
    counted: Counted,
    timestamp: i64,
    units: i64,
    canceled: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cancel {
    Done,
    Unknown,
    Again,
}

impl Usage {
    /// `false`: an event with this identifier was recorded less than 24 hours ago, so this one is not counted.
    pub(crate) fn record(
        &mut self,
        now: i64,
        lag_s: i64,
        identifier: &str,
        counted: Counted,
        timestamp: i64,
        units: i64,
    ) -> bool {
        self.forget(now);
        if self.identifiers.contains_key(identifier) {
            return false;
        }
        self.received.push_back((now, identifier.to_owned()));
        let recorded = Recorded {
            counted: counted.clone(),
            timestamp,
            units,
            canceled: false,
        };
        self.identifiers.insert(identifier.to_owned(), recorded);
        self.count(now, lag_s, counted, timestamp, units);
        true
    }

    /// Cancels an event of the last 24 hours.
    pub(crate) fn cancel(&mut self, now: i64, lag_s: i64, event_name: &str, identifier: &str) -> Cancel {
        self.forget(now);
        let recorded = self
            .identifiers
            .get_mut(identifier)
            .filter(|recorded| recorded.counted.1 == event_name);
        let Some(recorded) = recorded else {
            return Cancel::Unknown;
        };
        if std::mem::replace(&mut recorded.canceled, true) {
            return Cancel::Again;
        }
        let Recorded {
            counted,
            timestamp,
            units,
            ..
        } = recorded.clone();
        self.count(now, lag_s, counted, timestamp, -units);
        Cancel::Done
    }

    /// Units with a timestamp in `from..to`.
    pub(crate) fn total(&self, counted: &Counted, from: i64, to: i64) -> i64 {
        let counter = self.counters.get(counted);
        counter.map_or(0, |counter| sum(&counter.all, from, to))
    }

    /// The units that the summaries already show; `None`: no event at all.
    pub(crate) fn summary(&mut self, now: i64, counted: &Counted, from: i64, to: i64) -> Option<i64> {
        while let Some((visible_at, counted, timestamp, units)) = self.lagging.front() {
            if *visible_at > now {
                break;
            }
            let summarized = &mut self.counters.entry(counted.clone()).or_default().summarized;
            *summarized.entry(*timestamp).or_default() += units;
            self.lagging.pop_front();
        }
        let summarized = &self.counters.get(counted)?.summarized;
        summarized.range(from..to.max(from)).next()?;
        Some(sum(summarized, from, to))
    }

    fn count(&mut self, now: i64, lag_s: i64, counted: Counted, timestamp: i64, units: i64) {
        let counter = self.counters.entry(counted.clone()).or_default();
        *counter.all.entry(timestamp).or_default() += units;
        if lag_s <= 0 {
            *counter.summarized.entry(timestamp).or_default() += units;
        } else {
            self.lagging.push_back((now + lag_s, counted, timestamp, units));
        }
    }

    fn forget(&mut self, now: i64) {
        while self.received.front().is_some_and(|(at, _)| now - at >= REMEMBERED_S) {
            if let Some((_, identifier)) = self.received.pop_front() {
                self.identifiers.remove(&identifier);
            }
        }
    }
}

fn sum(units: &BTreeMap<i64, i64>, from: i64, to: i64) -> i64 {
    units.range(from..to.max(from)).map(|(_, units)| units).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api_calls() -> Counted {
        ("cus_1".to_owned(), "api_call".to_owned())
    }

    #[test]
    fn identifier_is_remembered_for_exactly_24_hours() {
        let mut usage = Usage::default();
        assert!(usage.record(1_000, 0, "a", api_calls(), 900, 1));
        assert!(!usage.record(1_000 + REMEMBERED_S - 1, 0, "a", api_calls(), 900, 10));
        assert!(usage.record(1_000 + REMEMBERED_S, 0, "a", api_calls(), 900, 100));
        assert_eq!(usage.total(&api_calls(), 0, i64::MAX), 101);
    }

    #[test]
    fn totals_are_half_open() {
        let mut usage = Usage::default();
        for (n, units) in [(10, 1), (20, 10), (30, 100)] {
            assert!(usage.record(50, 0, &n.to_string(), api_calls(), n, units));
        }
        assert_eq!(usage.total(&api_calls(), 10, 30), 11);
        assert_eq!(usage.total(&api_calls(), 30, 10), 0);
    }

    #[test]
    fn summaries_lag_and_totals_do_not() {
        let mut usage = Usage::default();
        assert!(usage.record(100, 60, "a", api_calls(), 100, 5));
        assert_eq!(usage.total(&api_calls(), 0, 200), 5);
        assert_eq!(usage.summary(159, &api_calls(), 0, 200), None);
        assert_eq!(usage.summary(160, &api_calls(), 0, 200), Some(5));
    }

    #[test]
    fn event_can_be_canceled_once_and_within_24_hours() {
        let mut usage = Usage::default();
        assert!(usage.record(0, 0, "a", api_calls(), 0, 5));
        assert!(usage.record(10, 0, "b", api_calls(), 0, 7));
        assert_eq!(usage.cancel(20, 0, "export", "a"), Cancel::Unknown);
        assert_eq!(usage.cancel(20, 0, "api_call", "a"), Cancel::Done);
        assert_eq!(usage.cancel(20, 0, "api_call", "a"), Cancel::Again);
        assert_eq!(usage.cancel(10 + REMEMBERED_S, 0, "api_call", "b"), Cancel::Unknown);
        assert_eq!(usage.total(&api_calls(), 0, 1), 7);
    }
}
