//! The entries of one message. They are gathered, encoded and settled together.

use bytes::Bytes;
use schema::{BatchId, RunId, lane_record::BatchBuilder};
use tokio::sync::oneshot;

use crate::outgoing::{Outgoing, PublishOutcome, Units};

/// The events of one request. They are stored together, in one message.
pub struct Entry<U> {
    events: Vec<Outgoing<U>>,
    bytes: usize,
    /// `None`: nobody waits for the outcome, or nobody does any more.
    waiter: Option<oneshot::Sender<PublishOutcome>>,
}

/// The entries of one message. If it is dropped without [`Gathered::settle`] (a task was aborted), its units are spent and
/// its outcome is unknown. The message may be stored, so units that were given back could be spent twice.
pub struct Gathered<U: Units> {
    entries: Vec<Entry<U>>,
    events: usize,
    bytes: usize,
}

/// The limits of one message. A single entry always fits.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    pub events: usize,
    pub bytes: usize,
}

impl<U: Units> Entry<U> {
    pub fn new(events: Vec<Outgoing<U>>, waiter: Option<oneshot::Sender<PublishOutcome>>) -> Self {
        let bytes = events.iter().map(|outgoing| outgoing.event.size()).sum();
        Self { events, bytes, waiter }
    }

    /// The maximum size in a batch, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Ends this entry: spends its units or gives them back, and reports the outcome to its waiter.
    pub fn settle(mut self, outcome: PublishOutcome) {
        self.report(outcome);
        if !outcome.is_not_stored() {
            for units in self.events.into_iter().filter_map(|outgoing| outgoing.units) {
                units.spent();
            }
        }
        // Dropping units gives them back.
    }

    fn report(&mut self, outcome: PublishOutcome) {
        if let Some(waiter) = self.waiter.take() {
            // An aborted request has no receiver.
            waiter.send(outcome).ok();
        }
    }
}

impl<U: Units> Gathered<U> {
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn events(&self) -> usize {
        self.events
    }

    /// Takes the entry, or returns it for the next message. An entry is never split.
    pub fn push(&mut self, entry: Entry<U>, limits: BatchLimits) -> Result<(), Entry<U>> {
        let fits = self.events + entry.events.len() <= limits.events && self.bytes + entry.bytes <= limits.bytes;
        if !fits && !self.is_empty() {
            return Err(entry);
        }
        self.events += entry.events.len();
        self.bytes += entry.bytes;
        self.entries.push(entry);
        Ok(())
    }

    pub fn is_full(&self, limits: BatchLimits) -> bool {
        self.events >= limits.events || self.bytes >= limits.bytes
    }

    pub fn encode(&self, batch: BatchId, run: RunId) -> Bytes {
        let mut builder = BatchBuilder::new(batch);
        for outgoing in self.entries.iter().flat_map(|entry| &entry.events) {
            builder.push(&outgoing.event);
        }
        builder.finish(run).into()
    }

    /// Reports "unknown" to the waiters. The units stay here until the outcome is known.
    pub fn stop_waiting(&mut self) {
        for entry in &mut self.entries {
            entry.report(PublishOutcome::Unknown);
        }
    }

    pub fn settle(mut self, outcome: PublishOutcome) {
        for entry in self.entries.drain(..) {
            entry.settle(outcome);
        }
    }
}

impl<U: Units> Default for Gathered<U> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            events: 0,
            bytes: 0,
        }
    }
}

impl<U: Units> Drop for Gathered<U> {
    fn drop(&mut self) {
        for entry in self.entries.drain(..) {
            entry.settle(PublishOutcome::Unknown);
        }
    }
}

#[cfg(test)]
mod tests {
    use schema::{AccountId, EventId, KeyId, LeaseId, SubscriptionId, UsageEvent};

    use super::*;
    use crate::outgoing::NoUnits;

    fn entry(events: usize) -> (Entry<NoUnits>, oneshot::Receiver<PublishOutcome>) {
        let event = UsageEvent {
            event_id: EventId::new(),
            account_id: AccountId::new(),
            key_id: KeyId::new(),
            subscription_id: SubscriptionId::NIL,
            period_start: 0,
            usage_type: "api_call".into(),
            cost_units: 1,
            endpoint: "/".into(),
            method: "GET".into(),
            status: 200,
            request_id: "r".into(),
            ip_address: "::1".parse().unwrap(),
            user_agent: String::new(),
            time_ms: 0,
            lease_id: LeaseId::NIL,
            idempotency_key: String::new(),
            corrects: EventId::NIL,
        };
        let outgoing = || Outgoing {
            event: event.encode(),
            units: None,
        };
        let (waiter, outcome) = oneshot::channel();
        let events = std::iter::repeat_with(outgoing).take(events).collect();
        (Entry::new(events, Some(waiter)), outcome)
    }

    #[test]
    fn an_entry_that_does_not_fit_is_not_split() {
        let limits = BatchLimits {
            events: 10,
            bytes: 1 << 20,
        };
        let mut gathered = Gathered::default();
        assert!(gathered.push(entry(6).0, limits).is_ok());
        assert!(
            gathered
                .push(entry(5).0, limits)
                .is_err_and(|back| back.events.len() == 5)
        );
        assert!(gathered.push(entry(4).0, limits).is_ok());
        assert_eq!((gathered.events(), gathered.is_full(limits)), (10, true));

        let mut larger_than_all = Gathered::default();
        assert!(larger_than_all.push(entry(11).0, limits).is_ok());
    }

    #[test]
    fn a_message_has_at_most_the_counted_bytes() {
        let limits = BatchLimits {
            events: 100,
            bytes: 1 << 20,
        };
        let mut gathered = Gathered::default();
        assert!(gathered.push(entry(100).0, limits).is_ok());
        // The envelope: version, run id, batch id and lengths.
        assert!(gathered.encode(BatchId::new(), RunId::new()).len() <= gathered.bytes + 64);
    }

    #[test]
    fn waiters_who_stopped_waiting_get_one_outcome() {
        let (one, mut outcome) = entry(1);
        let mut gathered = Gathered::default();
        assert!(gathered.push(one, BatchLimits { events: 1, bytes: 1 }).is_ok());
        gathered.stop_waiting();
        assert_eq!(outcome.try_recv(), Ok(PublishOutcome::Unknown));
        gathered.settle(PublishOutcome::Stored);
    }

    #[test]
    fn a_dropped_batch_has_an_unknown_outcome() {
        let (one, mut outcome) = entry(1);
        let mut gathered = Gathered::default();
        assert!(gathered.push(one, BatchLimits { events: 1, bytes: 1 }).is_ok());
        drop(gathered);
        assert_eq!(outcome.try_recv(), Ok(PublishOutcome::Unknown));
    }
}
