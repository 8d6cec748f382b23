//! The states of a run, and what each permits.
//!
//! A run is one start of a writer: a gateway, or a billing worker that records corrections. Its row in `gateway_runs` holds
//! the state. Each statement that changes the state is conditional on the states that this table allows, so two parts that
//! act at the same time exclude each other.
//!
//! ```text
//!           StartSpooling             Suspect (live only), HandOver, GiveUp (spooling only)
//!   Live ─────────────────> Spooling ──────────────────────────────────────────> Fencing ─ Settle ─> Settled
//!        <───────────────── (and from Live)                                                             ^
//!           EndSpooling                                                                                 │
//!   Live, Spooling ─ Close (no lease is live) ─> Closed ─ Settle ───────────────────────────────────────┘
//! ```
//!
//! # Promises
//! - [`Spooling`](RunState::Spooling) and [`Fencing`](RunState::Fencing) exclude each other: a run that has acknowledged
//!   events from its spool is not ended because its heartbeat stops.
//! - From [`Fencing`](RunState::Fencing) on, the run takes no lease and gives none back: its live leases are all that exist.
//! - [`Closed`](RunState::Closed) and [`Settled`](RunState::Settled) hold no live lease.
//!
//! The model `lease_lane_fence` checks these through the properties "no request is admitted past the limit", "an answered
//! request is recorded, or in a spool that cannot be fenced", and that everything comes to rest. Its mutants `GrantToFenced`,
//! `FenceSpooling` and `SpoolBeforeCommitted` ignore this table and fail.

use serde::{Deserialize, Serialize};

/// The values of `gateway_runs.state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// It takes leases and records.
    Live,
    /// NATS is unavailable, so it records in its spool.
    Spooling,
    /// Other processes end it: they fence its lanes, then settle its leases.
    Fencing,
    /// It ended in order: all lanes are closed and all leases are returned.
    Closed,
    /// Nothing of the run is open.
    Settled,
}

/// What changes the state of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// A worker saw that the heartbeat stopped.
    Suspect,
    /// The writer commits that it spools, before it acknowledges anything from the spool.
    StartSpooling,
    /// The spool is drained.
    EndSpooling,
    /// The writer closes its run after all its lanes. Its leases must all be returned.
    Close { holds_leases: bool },
    /// A restarted process has drained the spool of the run and ended its lanes.
    HandOver,
    /// An operator gives up a spool that is lost.
    GiveUp,
    /// A worker has counted the run's leases.
    Settle { holds_leases: bool },
}

impl RunState {
    pub const ALL: [Self; 5] = [Self::Live, Self::Spooling, Self::Fencing, Self::Closed, Self::Settled];

    pub const UNSETTLED: [Self; 4] = [Self::Live, Self::Spooling, Self::Fencing, Self::Closed];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Spooling => "spooling",
            Self::Fencing => "fencing",
            Self::Closed => "closed",
            Self::Settled => "settled",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// The state after `transition`; `None`: this state does not allow it.
    pub fn after(self, transition: Transition) -> Option<Self> {
        match (transition, self) {
            (Transition::Suspect, Self::Live) => Some(Self::Fencing),
            (Transition::StartSpooling, Self::Live | Self::Spooling) => Some(Self::Spooling),
            (Transition::EndSpooling, Self::Live | Self::Spooling) => Some(Self::Live),
            (Transition::Close { holds_leases: false }, Self::Live | Self::Spooling) => Some(Self::Closed),
            (Transition::HandOver, Self::Live | Self::Spooling) => Some(Self::Fencing),
            (Transition::GiveUp, Self::Spooling) => Some(Self::Fencing),
            (Transition::Settle { holds_leases: false }, Self::Fencing | Self::Closed) => Some(Self::Settled),
            _ => None,
        }
    }

    /// The writer still owns the run: its heartbeat counts, and it takes leases and gives them back.
    ///
    /// A run that spools takes leases too. It acknowledges the events of these leases only from its own spool, and the
    /// spool reaches the run's lanes before they end.
    pub fn is_active(self) -> bool {
        matches!(self, Self::Live | Self::Spooling)
    }

    /// The run acknowledges events from its spool.
    pub fn acknowledges_from_spool(self) -> bool {
        self == Self::Spooling
    }

    /// A restarted process resumes the run and drains its spool. In any other state other processes have ended the run.
    pub fn is_resumable(self) -> bool {
        self.is_active()
    }

    /// A worker fences the run's lanes and settles its leases.
    pub fn is_being_ended(self) -> bool {
        self == Self::Fencing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRANSITIONS: [Transition; 9] = [
        Transition::Suspect,
        Transition::StartSpooling,
        Transition::EndSpooling,
        Transition::Close { holds_leases: false },
        Transition::Close { holds_leases: true },
        Transition::HandOver,
        Transition::GiveUp,
        Transition::Settle { holds_leases: false },
        Transition::Settle { holds_leases: true },
    ];

    #[test]
    fn a_run_that_others_end_never_becomes_active_again() {
        let ended = RunState::ALL.into_iter().filter(|state| !state.is_active());
        for state in ended {
            for transition in TRANSITIONS {
                let after = state.after(transition);
                assert!(after.is_none_or(|after| !after.is_active()), "{state:?} {transition:?}");
            }
        }
    }

    #[test]
    fn a_run_that_spools_is_not_ended_by_its_silence() {
        assert_eq!(RunState::Spooling.after(Transition::Suspect), None);
        assert_eq!(RunState::Fencing.after(Transition::StartSpooling), None);
        assert_eq!(RunState::Live.after(Transition::GiveUp), None);
    }

    #[test]
    fn a_run_that_holds_leases_is_neither_closed_nor_settled() {
        for state in RunState::ALL {
            assert_eq!(state.after(Transition::Close { holds_leases: true }), None);
            assert_eq!(state.after(Transition::Settle { holds_leases: true }), None);
        }
        assert_eq!(
            RunState::Live.after(Transition::Close { holds_leases: false }),
            Some(RunState::Closed)
        );
        assert_eq!(
            RunState::Closed.after(Transition::Settle { holds_leases: false }),
            Some(RunState::Settled)
        );
    }

    #[test]
    fn names_are_read_back() {
        for state in RunState::ALL {
            assert_eq!(RunState::parse(state.as_str()), Some(state));
        }
        assert_eq!(RunState::parse("dead"), None);
    }
}
