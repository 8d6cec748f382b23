//! The claims that hold in every state, and the situations that must be possible for the claims to mean anything.

use protocol::{give_back::LeaseState, lane::End, run::RunState};
use stateright::Property;

use super::{
    LeaseLaneFence,
    bounds::Mutant,
    state::{Record, State, What},
};

const LIMIT: &str = "no request is admitted past the limit";
const ONCE: &str = "no event is recorded twice";
const ANSWERED: &str = "an answered request is recorded, or in a spool that cannot be fenced";
const CONSERVED: &str = "units that a lease returns are never spent, and an ended lease returns all its unspent units";
const POSSIBLE: &str = "no lane sees anything impossible";

impl Mutant {
    /// The claim that the mutant violates. `None`: the claim that everything comes to rest.
    pub fn breaks(self) -> Option<&'static str> {
        match self {
            Self::ReturnBeforeClose | Self::SettleWithoutFence | Self::SettleBeforeStored => Some(LIMIT),
            Self::KeepLeases | Self::RefundUnknown => Some(LIMIT),
            Self::ReturnDifferences => Some(CONSERVED),
            Self::NoExpectedSequence | Self::ReadmitBeforeOutcome => Some(ONCE),
            Self::AnswerBeforeStored | Self::FenceSpooling | Self::SpoolBeforeCommitted => Some(ANSWERED),
            Self::GrantToFenced => None,
            Self::SpoolWithoutInFlight => Some(POSSIBLE),
        }
    }
}

pub(super) fn all(model: &LeaseLaneFence) -> Vec<Property<LeaseLaneFence>> {
    let bounds = &model.bounds;
    let mut properties = vec![
        Property::always(LIMIT, |model: &LeaseLaneFence, state: &State| {
            let admitted = state.recorded().count() + state.spooled().count();
            admitted <= model.bounds.limit as usize && state.granted <= model.bounds.limit
        }),
        Property::always(ONCE, |_: &LeaseLaneFence, state: &State| {
            let mut seen = 0u16;
            state.recorded().all(|event| {
                let is_new = seen & (1 << event.request) == 0;
                seen |= 1 << event.request;
                is_new
            })
        }),
        Property::always(ANSWERED, |_: &LeaseLaneFence, state: &State| {
            (0..state.requests).all(|request| {
                !state.is_answered(request)
                    || state.recorded().any(|event| event.request == request)
                    || state
                        .spooled()
                        .any(|(run, event)| event.request == request && run.row.acknowledges_from_spool())
            })
        }),
        Property::always(CONSERVED, |_: &LeaseLaneFence, state: &State| {
            (0u8..).zip(&state.leases).all(|(number, lease)| {
                let spent = state.recorded().filter(|event| event.lease == number).count()
                    + state.spooled().filter(|(_, event)| event.lease == number).count();
                let row = lease.row;
                let sum = row.returned + spent as i64;
                row.returned >= 0
                    && match row.state {
                        LeaseState::Live => sum <= row.units,
                        LeaseState::Returned | LeaseState::Settled => sum == row.units,
                    }
            })
        }),
        Property::always(POSSIBLE, |_: &LeaseLaneFence, state: &State| {
            let mut writers = state.runs.iter().filter_map(|run| run.writer.as_ref());
            writers.all(|writer| !matches!(writer.lane.end(), Some(End::Failed(_))))
        }),
    ];
    let reaches_limit = i64::from(bounds.requests) >= bounds.limit;
    if reaches_limit {
        properties.push(Property::sometimes(
            "all units of the limit are recorded",
            |model: &LeaseLaneFence, state: &State| state.recorded().count() == model.bounds.limit as usize,
        ));
    }
    if bounds.suspicions > 0 {
        properties.push(Property::sometimes(
            "a fence follows an event whose gateway does not know about the fence yet",
            |_: &LeaseLaneFence, state: &State| {
                state.runs.iter().any(|run| {
                    let sending = run.writer.as_ref().and_then(|writer| writer.sending);
                    let in_flight = sending.and_then(|sending| sending.what.event());
                    let stored = in_flight.is_some_and(|event| run.log.contains(&Record::Batch(event)));
                    stored && matches!(run.log.last(), Some(Record::Fence(_)))
                })
            },
        ));
    }
    if bounds.suspicions > 0 && reaches_limit && bounds.leases > bounds.limit as usize {
        properties.push(Property::sometimes(
            "units of a settled run are spent by another run",
            |model: &LeaseLaneFence, state: &State| {
                let came_back = state
                    .leases
                    .iter()
                    .any(|lease| lease.row.state == LeaseState::Settled && lease.row.returned > 0);
                came_back && state.recorded().count() == model.bounds.limit as usize
            },
        ));
    }
    if bounds.unclear > 0 && bounds.lease_units > 1 {
        properties.push(Property::sometimes(
            "a lease is given back in part while a request holds the rest",
            |_: &LeaseLaneFence, state: &State| {
                (0u8..).zip(&state.leases).any(|(n, lease)| {
                    lease.row.state == LeaseState::Live && lease.row.returned > 0 && state.reservations(n) > 0
                })
            },
        ));
    }
    if bounds.refusals > 0 {
        properties.push(Property::sometimes(
            "an empty batch replaces a batch that may be on its way",
            |_: &LeaseLaneFence, state: &State| {
                state
                    .runs
                    .iter()
                    .any(|run| run.log.iter().any(|record| matches!(record, Record::Empty(_))))
            },
        ));
    }
    if bounds.readmits {
        properties.push(Property::sometimes(
            "a request that a fence refused is admitted again and answered",
            |_: &LeaseLaneFence, state: &State| {
                state
                    .recorded()
                    .any(|event| event.readmitted && state.is_answered(event.request))
            },
        ));
    }
    if bounds.stop {
        properties.push(Property::sometimes(
            "a run is closed",
            |_: &LeaseLaneFence, state: &State| state.runs.iter().any(|run| run.row == RunState::Closed),
        ));
    }
    if bounds.spooled > 0 {
        properties.push(Property::sometimes(
            "a restarted process drains events that its predecessor acknowledged",
            |_: &LeaseLaneFence, state: &State| {
                state.runs.iter().any(|run| {
                    let writer = run.writer.as_ref().filter(|writer| writer.resumed);
                    let sending = writer.and_then(|writer| writer.sending);
                    sending.is_some_and(|sending| matches!(sending.what, What::Spooled(_)))
                })
            },
        ));
    }
    properties
}
