//! Metered usage: sums by customer, event name and second, and the identifiers of exactly the last 24 hours.

use std::collections::{BTreeMap, HashMap, VecDeque};

/// Events that can be deleted.
const EVENTS_MAX: usize = 10_000;

/// Stripe guarantees at least this. The double keeps identifiers for exactly this long, so that code that relies on more fails.
pub(crate) const REMEMBERED_S: i64 = 24 * 3_600;

#[derive(Debug, Default)]
pub(crate) struct Usage {
    counters: HashMap<Counted, Counter>,
    identifiers: HashMap<String, Recorded>,
    /// In the order of receipt, to find the expired ones.
    received: VecDeque<(i64, String)>,
    /// All events, the newest ones: an operator may delete one.
    events: VecDeque<(String, Recorded)>,
    /// By the time at which they appear in the summaries.
    lagging: VecDeque<Lagging>,
    /// By the time at which they appear on invoices.
    unmetered: VecDeque<Lagging>,
}

/// How much later an event appears, in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lag {
    /// On invoices, and in the summaries.
    pub metering_s: i64,
    /// In the summaries only.
    pub summary_s: i64,
}

#[derive(Debug)]
struct Lagging {
    visible_at: i64,
    counted: Counted,
    timestamp: i64,
    units: i64,
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
        lag: Lag,
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
        if self.events.len() >= EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back((identifier.to_owned(), recorded.clone()));
        self.identifiers.insert(identifier.to_owned(), recorded);
        self.count(now, lag, counted, timestamp, units);
        true
    }

    /// Cancels an event of the last 24 hours.
    pub(crate) fn cancel(&mut self, now: i64, lag: Lag, event_name: &str, identifier: &str) -> Cancel {
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
        self.count(now, lag, counted, timestamp, -units);
        Cancel::Done
    }

    /// Forgets an event, as no call of Stripe's API can. `false`: there is none.
    pub(crate) fn delete(&mut self, now: i64, identifier: &str) -> bool {
        let Some(at) = self.events.iter().position(|(id, _)| id == identifier) else {
            return false;
        };
        if let Some((_, event)) = self.events.remove(at) {
            self.identifiers.remove(identifier);
            self.count(now, Lag::default(), event.counted, event.timestamp, -event.units);
        }
        true
    }

    /// The events that can be deleted: identifier, customer, event name, timestamp and units, oldest first.
    pub(crate) fn events(&self) -> impl Iterator<Item = (&str, &Counted, i64, i64)> {
        let events = self.events.iter();
        events.map(|(id, event)| (id.as_str(), &event.counted, event.timestamp, event.units))
    }

    /// Units with a timestamp in `from..to`.
    pub(crate) fn total(&self, counted: &Counted, from: i64, to: i64) -> i64 {
        let counter = self.counters.get(counted);
        counter.map_or(0, |counter| sum(&counter.all, from, to))
    }

    /// The units in `from..to` that an invoice of this moment has.
    pub(crate) fn metered(&self, now: i64, counted: &Counted, from: i64, to: i64) -> i64 {
        let is_missing = |late: &&Lagging| {
            late.visible_at > now && late.counted == *counted && (from..to.max(from)).contains(&late.timestamp)
        };
        let missing: i64 = self.unmetered.iter().filter(is_missing).map(|late| late.units).sum();
        self.total(counted, from, to) - missing
    }

    /// The units that the summaries already show; `None`: no event at all.
    pub(crate) fn summary(&mut self, now: i64, counted: &Counted, from: i64, to: i64) -> Option<i64> {
        while let Some(late) = self.lagging.pop_front_if(|late| late.visible_at <= now) {
            let summarized = &mut self.counters.entry(late.counted).or_default().summarized;
            *summarized.entry(late.timestamp).or_default() += late.units;
        }
        let summarized = &self.counters.get(counted)?.summarized;
        summarized.range(from..to.max(from)).next()?;
        Some(sum(summarized, from, to))
    }

    fn count(&mut self, now: i64, lag: Lag, counted: Counted, timestamp: i64, units: i64) {
        let counter = self.counters.entry(counted.clone()).or_default();
        *counter.all.entry(timestamp).or_default() += units;
        let late = |lag_s: i64| Lagging {
            visible_at: now + lag_s,
            counted: counted.clone(),
            timestamp,
            units,
        };
        let summary_s = lag.summary_s.max(lag.metering_s);
        if summary_s <= 0 {
            *counter.summarized.entry(timestamp).or_default() += units;
        } else {
            self.lagging.push_back(late(summary_s));
        }
        self.unmetered.retain(|late| late.visible_at > now);
        if lag.metering_s > 0 {
            self.unmetered.push_back(late(lag.metering_s));
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

    const NONE: Lag = Lag {
        metering_s: 0,
        summary_s: 0,
    };

    fn api_calls() -> Counted {
        ("cus_1".to_owned(), "api_call".to_owned())
    }

    #[test]
    fn identifier_is_remembered_for_exactly_24_hours() {
        let mut usage = Usage::default();
        assert!(usage.record(1_000, NONE, "a", api_calls(), 900, 1));
        assert!(!usage.record(1_000 + REMEMBERED_S - 1, NONE, "a", api_calls(), 900, 10));
        assert!(usage.record(1_000 + REMEMBERED_S, NONE, "a", api_calls(), 900, 100));
        assert_eq!(usage.total(&api_calls(), 0, i64::MAX), 101);
    }

    #[test]
    fn totals_are_half_open() {
        let mut usage = Usage::default();
        for (n, units) in [(10, 1), (20, 10), (30, 100)] {
            assert!(usage.record(50, NONE, &n.to_string(), api_calls(), n, units));
        }
        assert_eq!(usage.total(&api_calls(), 10, 30), 11);
        assert_eq!(usage.total(&api_calls(), 30, 10), 0);
    }

    #[test]
    fn summaries_lag_and_totals_do_not() {
        let mut usage = Usage::default();
        let lag = Lag { summary_s: 60, ..NONE };
        assert!(usage.record(100, lag, "a", api_calls(), 100, 5));
        assert_eq!(usage.total(&api_calls(), 0, 200), 5);
        assert_eq!(usage.summary(159, &api_calls(), 0, 200), None);
        assert_eq!(usage.summary(160, &api_calls(), 0, 200), Some(5));
        assert_eq!(usage.metered(100, &api_calls(), 0, 200), 5);
    }

    #[test]
    fn metering_that_lags_is_seen_on_invoices_and_in_summaries() {
        let mut usage = Usage::default();
        assert!(usage.record(90, NONE, "a", api_calls(), 90, 1));
        let lag = Lag { metering_s: 60, ..NONE };
        assert!(usage.record(100, lag, "b", api_calls(), 100, 10));
        assert_eq!(usage.total(&api_calls(), 0, 200), 11);
        for (now, units) in [(159, 1), (160, 11)] {
            assert_eq!(usage.metered(now, &api_calls(), 0, 200), units);
            assert_eq!(usage.summary(now, &api_calls(), 0, 200), Some(units));
        }
        assert_eq!(usage.metered(159, &api_calls(), 0, 100), 1, "another span");
    }

    #[test]
    fn a_deleted_event_is_in_no_sum() {
        let mut usage = Usage::default();
        assert!(usage.record(0, NONE, "a", api_calls(), 0, 5));
        assert!(usage.record(REMEMBERED_S, NONE, "b", api_calls(), 1, 7));
        assert!(usage.delete(REMEMBERED_S, "a") && !usage.delete(REMEMBERED_S, "a"));
        assert_eq!(usage.summary(REMEMBERED_S, &api_calls(), 0, 10), Some(7));
        assert_eq!(usage.events().map(|(id, ..)| id).collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn event_can_be_canceled_once_and_within_24_hours() {
        let mut usage = Usage::default();
        assert!(usage.record(0, NONE, "a", api_calls(), 0, 5));
        assert!(usage.record(10, NONE, "b", api_calls(), 0, 7));
        assert_eq!(usage.cancel(20, NONE, "export", "a"), Cancel::Unknown);
        assert_eq!(usage.cancel(20, NONE, "api_call", "a"), Cancel::Done);
        assert_eq!(usage.cancel(20, NONE, "api_call", "a"), Cancel::Again);
        assert_eq!(usage.cancel(10 + REMEMBERED_S, NONE, "api_call", "b"), Cancel::Unknown);
        assert_eq!(usage.total(&api_calls(), 0, 1), 7);
    }
}
