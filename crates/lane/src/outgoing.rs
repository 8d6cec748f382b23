//! The events and units that a service gives to a lane, and the possible outcomes of publishing them.

use schema::{RunId, usage_event::EncodedEvent};

/// One event to publish, with the units that it spends. `None`: it spends no units (a failed request, an overage type).
pub struct Outgoing<U> {
    pub event: EncodedEvent,
    pub units: Option<U>,
}

/// Units reserved for one event. If they are dropped without [`Units::spent`], they are given back.
pub trait Units: Send + 'static {
    /// The event is stored or may be stored, so the units are spent.
    fn spent(self);
}

/// For a writer whose events spend nothing, such as corrections.
#[derive(Clone, Copy, Debug)]
pub enum NoUnits {}

impl Units for NoUnits {
    fn spent(self) {
        match self {}
    }
}

/// The outcome of publishing an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishOutcome {
    /// The event is fsynced in the stream, or in the spool, which publishes it later.
    Stored,
    /// The event is not stored and never will be. Its units are given back. A gateway answers `503` and does not count the
    /// request.
    NotStored,
    /// Not stored, because the run ended first. The next run may take the event with its own units.
    RunEnded(RunId),
    /// Unknown at the deadline. The lane finds the outcome later, and spends the units or gives them back. A gateway
    /// answers `504 outcome_unknown`.
    Unknown,
}

impl PublishOutcome {
    /// The event is not stored and never will be.
    pub fn is_not_stored(self) -> bool {
        matches!(self, Self::NotStored | Self::RunEnded(_))
    }
}
