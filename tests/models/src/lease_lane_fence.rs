//! Leases, lanes, fences and settling, over every interleaving. A gateway spends units that it leased from PostgreSQL and
//! records each event in its lane. A gateway that seems dead is fenced, and its unspent units are returned after its events are
//! counted.
//!
//! The model runs the code of `crates/protocol`: the lane, the lease, the states of a run, give-backs, the fence and the count.
//! PostgreSQL, NATS, the processes and the network are modelled here, with one action for each of their steps ([`action`] names
//! the function of the product). The simplifications lose no interleaving: one pool, one shard, batches with one event of one
//! unit, and steps that no other part can observe are merged. There is no clock: a heartbeat may stop at any time, and a
//! message may arrive at any later time.

pub mod action;
pub mod bounds;
pub mod properties;
pub mod state;
mod step;

use protocol::{
    fence::{self, Step},
    give_back::{LeaseState, Total},
    grant::Pool,
    lane::{End, Next},
    run::{RunState, Transition},
};
use schema::Manifest;
use stateright::{Model, Property};

use self::{
    action::{Action, Fate, GrantResponse},
    bounds::{Bounds, Mutant},
    state::{Local, Run, State, What, Writer},
};
use crate::check::{self, Exploration, Rests};

#[derive(Clone, Debug)]
pub struct LeaseLaneFence {
    pub bounds: Bounds,
    pub mutant: Option<Mutant>,
}

impl Model for LeaseLaneFence {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::new(self.bounds.gateways)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for gateway in (0..).take(state.gateways.len()) {
            self.of_gateway(state, gateway, actions);
        }
        for run in (0..).take(state.runs.len()) {
            self.of_writer(state, run, actions);
            self.of_worker(state, run, actions);
        }
        for lease in (0..).take(state.leases.len()) {
            self.of_lease(state, lease, actions);
        }
        actions.extend(state.wire.iter().copied().map(Action::Lands));
        for give_back in &state.give_backs {
            for again in [false, true] {
                if !again || state.faults.unclear < self.bounds.unclear {
                    actions.push(Action::GiveBackLands {
                        give_back: *give_back,
                        again,
                    });
                }
            }
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut state = state.clone();
        self.step(&mut state, action);
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all(self)
    }
}

impl Rests for LeaseLaneFence {
    fn is_progress(&self, _state: &State, action: &Action) -> bool {
        !action.is_fault_or_choice()
    }

    /// All units that were granted and not spent are back in the pool, and no spool holds an event.
    fn is_at_rest(&self, state: &State) -> bool {
        let is_held = |lease: &state::Lease| lease.row.state == LeaseState::Live;
        !state.leases.iter().any(is_held)
            && state.granted == state.recorded().count() as i64
            && state.spooled().next().is_none()
    }
}

impl LeaseLaneFence {
    fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    fn of_gateway(&self, state: &State, g: u8, actions: &mut Vec<Action>) {
        let (gateway, bounds) = (&state.gateways[usize::from(g)], &self.bounds);
        if !gateway.alive {
            let spools = state
                .runs
                .iter()
                .any(|run| run.gateway == g && run.row.acknowledges_from_spool());
            // Without a spool, a restarted gateway is like any other gateway. The model has one already, or its bounds exclude
            // it.
            if spools {
                actions.push(Action::Restart { gateway: g });
            }
            return;
        }
        if state.faults.crashes < bounds.crashes {
            actions.push(Action::Crash { gateway: g });
        }
        let Some(r) = gateway.run else { return };
        let run = &state.runs[usize::from(r)];
        let Some(writer) = &run.writer else { return };
        if !run.row.is_active() || writer.lane.end().is_some_and(|end| end != End::Closed) {
            actions.push(Action::Replace { gateway: g });
        }
        let is_open = writer.sending.is_none_or(|sending| sending.what != What::Open);
        if !is_open {
            return;
        }
        if bounds.stop && !gateway.stopping && !gateway.spooling {
            actions.push(Action::Stop { gateway: g });
        }
        if gateway.stopping {
            return;
        }
        let may_take_leases = run.row.is_active() || self.is(Mutant::GrantToFenced);
        if may_take_leases && state.leases.len() < bounds.leases {
            for units in (1..=bounds.lease_units).filter(|units| self.pool(state).grant(*units)) {
                for response in [GrantResponse::Received, GrantResponse::Lost] {
                    if response == GrantResponse::Received || state.faults.unclear < bounds.unclear {
                        actions.push(Action::Acquire {
                            gateway: g,
                            units,
                            response,
                        });
                    }
                }
            }
        }
        if bounds.spooled > 0 && run.row == RunState::Live && !gateway.spooling {
            actions.push(Action::StartSpooling { gateway: g });
        }
        if gateway.spooling && run.spool.is_empty() && writer.is_idle() {
            actions.push(Action::EndSpooling { gateway: g });
        }
        let may_spool = gateway.spooling || self.is(Mutant::SpoolBeforeCommitted);
        for lease in (0..).take(state.leases.len()) {
            let of_lease = &state.leases[usize::from(lease)];
            if state.runs[usize::from(of_lease.run)].gateway != g || of_lease.left() == 0 {
                continue;
            }
            if may_spool && run.spool.len() < bounds.spooled && state.requests < bounds.requests {
                actions.push(Action::Spool { gateway: g, lease });
            }
            if writer.is_idle() && !gateway.spooling {
                if state.requests < bounds.requests {
                    actions.push(Action::Admit {
                        gateway: g,
                        lease,
                        again: false,
                    });
                }
                if gateway.to_readmit.is_some() {
                    actions.push(Action::Admit {
                        gateway: g,
                        lease,
                        again: true,
                    });
                }
            }
        }
    }

    fn of_writer(&self, state: &State, run: u8, actions: &mut Vec<Action>) {
        let of_run = &state.runs[usize::from(run)];
        let Some(writer) = &of_run.writer else { return };
        let gateway = &state.gateways[usize::from(of_run.gateway)];
        let (faults, bounds) = (&state.faults, &self.bounds);
        match writer.sending.map(|sending| sending.next) {
            Some(Next::Read) => actions.push(Action::Read { run }),
            Some(Next::Publish { .. }) => {
                actions.push(Action::Attempt {
                    run,
                    fate: Fate::Answered,
                });
                if faults.unclear < bounds.unclear {
                    actions.push(Action::Attempt {
                        run,
                        fate: Fate::Delayed,
                    });
                }
                if faults.refusals < bounds.refusals {
                    actions.push(Action::Attempt {
                        run,
                        fate: Fate::Refused,
                    });
                }
            }
            Some(Next::Done(_)) | None => {}
        }
        if writer.is_idle() {
            if !of_run.spool.is_empty() {
                actions.push(Action::Drain { run });
            } else if writer.resumed || (gateway.stopping && gateway.run == Some(run)) {
                actions.push(Action::CloseLane { run });
            }
        }
        if writer.lane.end() == Some(End::Closed) && of_run.row.after(ending(state, run, writer)).is_some() {
            actions.push(Action::CloseRun { run });
        }
    }

    fn pool(&self, state: &State) -> Pool {
        Pool {
            limit: self.bounds.limit,
            granted: state.granted,
        }
    }

    fn of_worker(&self, state: &State, run: u8, actions: &mut Vec<Action>) {
        let of_run = &state.runs[usize::from(run)];
        let gateway = &state.gateways[usize::from(of_run.gateway)];
        let suspectable = of_run.row.after(Transition::Suspect).is_some()
            || (of_run.row == RunState::Spooling && self.is(Mutant::FenceSpooling));
        let is_dead = !gateway.alive || gateway.run != Some(run);
        if suspectable && (is_dead || state.faults.suspicions < self.bounds.suspicions) {
            actions.push(Action::Suspect { run });
        }
        if !of_run.row.is_being_ended() {
            return;
        }
        if usize::from(of_run.passed) < of_run.log.len() {
            actions.push(Action::Store { run });
        }
        let end = match fence::step(of_run.last_record()) {
            Ok(Step::Ended { sequence }) => Some(sequence),
            Ok(Step::Append { .. }) => {
                actions.push(Action::Fence { run });
                self.is(Mutant::SettleWithoutFence).then_some(of_run.log.len() as u64)
            }
            Err(_) => None,
        };
        let is_stored = |end| is_stored(of_run, end) || self.is(Mutant::SettleBeforeStored);
        if end.is_some_and(is_stored) {
            actions.push(Action::Settle { run });
        }
    }

    fn of_lease(&self, state: &State, lease: u8, actions: &mut Vec<Action>) {
        let of_lease = &state.leases[usize::from(lease)];
        let gateway = state.runs[usize::from(of_lease.run)].gateway;
        if !state.gateways[usize::from(gateway)].alive {
            return;
        }
        let has_news = match of_lease.local {
            Local::None => false,
            Local::Unknown => true,
            Local::Held { lease, sent } => !lease.closed || Total::due(lease, sent).is_some(),
        };
        if has_news {
            actions.push(Action::GiveBack { lease });
        }
        if self.is(Mutant::ReturnBeforeClose) && of_lease.is_open() {
            actions.push(Action::CloseLate { lease });
        }
    }
}

/// How the process that writes to a run ends it. A run that was resumed to drain its spool is handed over.
fn ending(state: &State, run: u8, writer: &Writer) -> Transition {
    if writer.resumed {
        return Transition::HandOver;
    }
    Transition::Close {
        holds_leases: state.holds_leases(run),
    }
}

/// The stream has one generation and one shard, which the ingestor stores in order.
fn is_stored(run: &Run, end: u64) -> bool {
    let manifest = Manifest {
        generation: 1,
        done_through: u64::from(run.passed),
        ..Manifest::default()
    };
    fence::is_stored(&manifest, end, manifest.generation, run.log.len() as u64)
}

/// Runs a mutant within its bounds and returns the violation that it causes.
pub fn try_mutant(mutant: Mutant) -> Exploration {
    let model = LeaseLaneFence {
        bounds: mutant.bounds(),
        mutant: Some(mutant),
    };
    match mutant.breaks() {
        // A single thread finds the shortest path.
        Some(claim) => check::states(model, Some(claim), 1),
        None => check::rest(&model),
    }
}
