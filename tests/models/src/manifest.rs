//! One shard and its manifest, over every interleaving of two ingestors. Each range is written to the manifest before it is
//! inserted, verified in ClickHouse before it is done, and replayed identically by the next owner.
//!
//! The model runs the code of `crates/protocol`: claim, compare-and-set, duplicates, range, storing, audit and trim. NATS, ClickHouse and the processes are
//! modelled here ([`action`] names the functions of the product). The simplifications lose no interleaving: records have one
//! event, all records exist from the start (a range may end at any of them), and steps that no other part can observe are
//! merged. There is no clock: an owner may seem dead at any time, and an insert may arrive at any later time.
//!
//! ClickHouse's window of tokens is an assumption here, as in the code: a token is not forgotten while an insert with it is on
//! its way. In the scenario [`bounds::Bounds::audited`] not even that holds, and an audit must repair the rows.

pub mod action;
pub mod bounds;
pub mod properties;
pub mod state;
mod step;

use std::time::Duration;

use protocol::{
    audit::{Difference, Held},
    claim::{self, Claim, StreamState},
    duplicates::{KeyedEvent, Question, Remembered, SealedAt},
    range::{self, Sealed},
    trim,
};
use schema::{AccountId, EventId, manifest::Pending as SealedRange};
use stateright::{Model, Property};

use self::{
    action::{Action, Response},
    bounds::{Bounds, Mutant},
    state::{Phase, Stage, State, Token, event_id},
};
use crate::check::{self, Exploration, Rests};

/// For how long a key is remembered.
const WINDOW: Duration = Duration::from_secs(1);
/// When all ranges are sealed, in milliseconds.
const SEALED_MS: i64 = 0;
/// When an event is stored in the stream whose key is expired: after the window of every range.
const EXPIRED_MS: i64 = 2_000;

#[derive(Clone, Debug)]
pub struct ManifestModel {
    pub bounds: Bounds,
    pub mutant: Option<Mutant>,
}

impl Model for ManifestModel {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::new(self.last(), self.bounds.ingestors)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let (faults, bounds) = (&state.faults, &self.bounds);
        for ingestor in 0..bounds.ingestors {
            self.of_ingestor(state, ingestor, actions);
        }
        for insert in &state.air {
            actions.push(Action::Lands(*insert));
            if faults.swallowed < bounds.swallowed && !state.tokens.contains(&insert.token) {
                actions.push(Action::Swallowed(*insert));
            }
        }
        if faults.forgotten < bounds.forgotten {
            let forgettable = state.tokens.iter().filter(|token| self.may_be_forgotten(state, token));
            actions.extend(forgettable.copied().map(Action::Forget));
        }
        if faults.manifests < bounds.manifests && state.manifest.exists && state.air.is_empty() {
            actions.push(Action::LoseManifest);
        }
        actions.extend(state.entry_writes.iter().copied().map(Action::EntryLands));
        if bounds.expires && !state.expired {
            actions.push(Action::Expire);
        }
        // The replay window is longer than the delay of any insert and than the time until the next audit.
        let settled =
            !bounds.audited || self.is(Mutant::NoAudit) || (state.air.is_empty() && self.audit(state) == state.rows);
        if self.trim_through(state) > state.trimmed && settled {
            actions.push(Action::Trim);
        }
        if bounds.audited && !self.is(Mutant::NoAudit) && self.audit(state) != state.rows {
            actions.push(Action::Audit);
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut state = state.clone();
        self.step(&mut state, action);
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all(&self.bounds)
    }
}

impl Rests for ManifestModel {
    fn is_progress(&self, state: &State, action: &Action) -> bool {
        match action {
            Action::Take { .. } => !action.is_fault() && !self.owner_works(state),
            action => !action.is_fault(),
        }
    }

    /// Every event is stored once or dropped once, and the manifest says so. (The next write notices a lost manifest.)
    fn is_at_rest(&self, state: &State) -> bool {
        let is_recorded = state.manifest.done_through == self.last() || !state.manifest.exists;
        is_recorded
            && (1..=self.last()).all(|position| {
                let (rows, dropped) = (state.rows_at(position), state.duplicates.has(position));
                (rows == 1) != dropped && rows <= 1
            })
    }
}

impl ManifestModel {
    fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// The last position of the stream.
    fn last(&self) -> u8 {
        self.bounds.events.len() as u8
    }

    fn stream(&self) -> StreamState {
        StreamState {
            generation: 1,
            last_seq: self.last().into(),
            bytes: 0,
            max_bytes: 0,
        }
    }

    fn event(&self, position: u8) -> u8 {
        self.bounds.events[usize::from(position) - 1]
    }

    fn owner_works(&self, state: &State) -> bool {
        let owner = state.manifest.owner.map(|owner| state.ingestors[usize::from(owner)]);
        owner.is_some_and(|owner| match owner.phase {
            Phase::Away => false,
            Phase::Writing { .. } => true,
            Phase::Ready { .. } | Phase::Storing { .. } => owner.current,
        })
    }

    fn of_ingestor(&self, state: &State, ingestor: u8, actions: &mut Vec<Action>) {
        let (faults, bounds) = (&state.faults, &self.bounds);
        let phase = state.ingestors[usize::from(ingestor)].phase;
        let may_lose = faults.unclear < bounds.unclear;
        let responses = [Response::Received, Response::Lost]
            .into_iter()
            .take(1 + usize::from(may_lose));
        if phase != Phase::Away && faults.crashes < bounds.crashes {
            actions.push(Action::Crash { ingestor });
        }
        match phase {
            Phase::Away => {
                // A living owner may seem gone.
                let is_gone = |_: &str| !self.owner_works(state) || faults.suspicions < bounds.suspicions;
                let entry = state.manifest.encode(bounds.events);
                if claim::claim(entry.as_ref(), &ingestor.to_string(), is_gone) == Claim::Take {
                    actions.extend(responses.map(|response| Action::Take { ingestor, response }));
                }
            }
            Phase::Ready { done, recorded } => {
                for last in done + 1..=self.last() {
                    actions.extend(responses.clone().map(|response| Action::Seal {
                        ingestor,
                        last,
                        response,
                    }));
                }
                if !recorded {
                    actions.extend(responses.map(|response| Action::WriteDone { ingestor, response }));
                }
            }
            Phase::Writing { .. } => actions.push(Action::ReadEntry { ingestor }),
            Phase::Storing { stage, .. } => match stage {
                Stage::Duplicates { .. } | Stage::DuplicatesLate => actions.push(Action::StoreDuplicates { ingestor }),
                Stage::Send(_) => actions.push(Action::Send { ingestor }),
                Stage::Look(_) | Stage::Sent { .. } => actions.push(Action::Look { ingestor }),
            },
        }
    }

    /// The window holds more tokens than are used while an insert is on its way, or while the owner of the shard stores a
    /// range.
    fn may_be_forgotten(&self, state: &State, token: &Token) -> bool {
        let is_of = |first, last| (first, last) == (token.first, token.last);
        let on_its_way = state
            .air
            .iter()
            .any(|insert| is_of(insert.token.first, insert.token.last));
        let is_stored = state.ingestors.iter().any(|ingestor| {
            let Phase::Storing { pending, .. } = ingestor.phase else {
                return false;
            };
            ingestor.current && is_of(pending.first, pending.last)
        });
        self.bounds.audited || !(on_its_way || is_stored)
    }

    fn trim_through(&self, state: &State) -> u8 {
        let pending = state.manifest.pending.filter(|_| self.is(Mutant::TrimPending));
        let done_through = pending.map_or(state.manifest.done_through, |pending| pending.last);
        // The model assumes that the replay window has passed when this step happens.
        trim::boundary(self.stream(), done_through.into(), None) as u8 - 1
    }

    /// The rows after an audit.
    fn audit(&self, state: &State) -> Vec<u8> {
        let closed = state.trimmed + 1..=state.manifest.done_through;
        let audited = |position: u8| {
            let rows = state.rows_at(position);
            if !closed.contains(&position) {
                return rows;
            }
            let is_dropped = state.duplicates.has(position) && !self.is(Mutant::AuditStoresDuplicates);
            let held = Held {
                rows: rows.into(),
                positions: u64::from(rows > 0),
            };
            let Difference { missing, doubled } = held.with_others(is_dropped.into()).difference(1);
            rows + missing as u8 - doubled as u8
        };
        (1..=self.last()).map(audited).collect()
    }

    /// Seals the range from `first` to `last`, as an ingestor does that remembers no ids: asks ClickHouse which events it has, and
    /// drops these. `None`: there is nothing to store.
    fn sealed(&self, state: &State, first: u8, last: u8) -> Option<SealedRange> {
        let positions: Vec<u8> = (first..=last).collect();
        let remembered = Remembered::nothing(WINDOW);
        let events = positions.iter().map(|position| self.keyed(state, *position));
        let question = remembered.question(first.into(), events.clone());
        let stored = question.map_or_else(SealedAt::new, |question| self.stored_before(state, &question));
        let mut dropped = remembered.dropped(events, &stored);
        let taken = range::cut(&positions, |position| u64::from(*position), &mut dropped);
        let last = positions[taken - 1];
        let events = (first..=last).map(|position| ((position.into(), 0), event_id(self.event(position))));
        match range::seal(first.into(), last.into(), events, dropped, SEALED_MS) {
            Sealed::Range(range) => Some(range),
            Sealed::Empty(_) => None,
        }
    }

    /// The event at a position. All events are in the stream from the start, so its time is chosen when it is needed. An event
    /// that was dropped before had not expired then, and its time does not change.
    fn keyed(&self, state: &State, position: u8) -> KeyedEvent {
        let is_expired = state.expired && !state.duplicates.has(position);
        KeyedEvent {
            position: (position.into(), 0),
            account_id: AccountId::NIL,
            event_id: event_id(self.event(position)),
            stored_ms: if is_expired { EXPIRED_MS } else { SEALED_MS },
        }
    }

    /// The answer of ClickHouse: `ingestor/src/pipeline/stored_before.rs`, `ask`.
    fn stored_before(&self, state: &State, question: &Question) -> SealedAt {
        let is_asked = |id: &EventId| question.ids.iter().any(|(_, asked)| asked == id);
        let is_before = |position: &u8| u64::from(*position) < question.first && SEALED_MS >= question.since_ms;
        (1..=self.last())
            .filter(|position| is_before(position) && state.rows_at(*position) > 0)
            .map(|position| (event_id(self.event(position)), SEALED_MS))
            .filter(|(id, _)| is_asked(id))
            .collect()
    }
}

/// Runs a mutant within its bounds and returns the violation that it causes.
pub fn try_mutant(mutant: Mutant) -> Exploration {
    let model = ManifestModel {
        bounds: mutant.bounds(),
        mutant: Some(mutant),
    };
    match mutant.breaks() {
        // A single thread finds the shortest path.
        Some(claim) => check::states(model, Some(claim), 1),
        None => check::rest(&model),
    }
}
