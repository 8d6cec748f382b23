//! The effect of each action.

mod leases;

use super::{
    LeaseLaneFence,
    action::{Action, Fate},
    bounds::Mutant,
    ending,
    state::{Event, Local, Publish, Record, Run, Spooled, State, What, Writer},
};
use leases::{refund, reserve, spend};
use protocol::{
    fence::{self, Step},
    lane::{AttemptOutcome, End, Lane, MessageOutcome, Next},
    run::{RunState, Transition},
    spool_state::SpoolState,
};
use schema::BatchId;

impl LeaseLaneFence {
    pub(super) fn step(&self, state: &mut State, action: Action) {
        match action {
            Action::Acquire {
                gateway,
                units,
                response,
            } => self.acquire(state, gateway, units, response),
            Action::Admit { gateway, lease, again } => self.admit(state, gateway, lease, again),
            Action::Attempt { run, fate } => self.attempt(state, run, fate),
            Action::Read { run } => {
                let record = state.runs[usize::from(run)].last_record();
                let next = writer(state, run).lane.read(record);
                self.go_on(state, run, next);
            }
            Action::Lands(publish) => {
                state.wire.remove(&publish);
                self.deliver(state, publish);
            }
            Action::GiveBack { lease } => self.give_back(state, lease),
            Action::CloseLate { lease } => state.leases[usize::from(lease)].local = Local::None,
            Action::GiveBackLands { give_back, again } => {
                if again {
                    state.faults.unclear += 1;
                } else {
                    state.give_backs.remove(&give_back);
                }
                self.take_back(state, give_back);
            }
            Action::Replace { gateway } => self.replace(state, gateway),
            Action::Crash { gateway } => crash(state, gateway),
            Action::Restart { gateway } => self.restart(state, gateway),
            Action::Suspect { run } => {
                let of_run = &mut state.runs[usize::from(run)];
                // The mutant that fences a spooling run ignores the table of transitions.
                of_run.row = of_run.row.after(Transition::Suspect).unwrap_or(RunState::Fencing);
                let gateway = &state.gateways[usize::from(of_run.gateway)];
                if gateway.alive && gateway.run == Some(run) {
                    state.faults.suspicions += 1;
                }
            }
            Action::Fence { run } => {
                if let Ok(Step::Append { last_batch, .. }) = fence::step(state.runs[usize::from(run)].last_record()) {
                    self.append(state, run, Record::Fence(code(last_batch)));
                }
            }
            Action::Store { run } => {
                let of_run = &mut state.runs[usize::from(run)];
                of_run.passed = of_run.log.len() as u8;
            }
            Action::Settle { run } => settle(state, run),
            Action::StartSpooling { gateway } => self.start_spooling(state, gateway),
            Action::Spool { gateway, lease } => spool(state, gateway, lease),
            Action::Drain { run } => {
                let first = state.runs[usize::from(run)].spool[0];
                writer(state, run).drain(first);
            }
            Action::EndSpooling { gateway } => {
                let of_gateway = &mut state.gateways[usize::from(gateway)];
                of_gateway.spooling = false;
                if let Some(run) = of_gateway.run {
                    change(state, run, Transition::EndSpooling);
                }
            }
            Action::Stop { gateway } => state.gateways[usize::from(gateway)].stopping = true,
            Action::CloseLane { run } => writer(state, run).begin(What::Close),
            Action::CloseRun { run } => {
                let Some(writer) = state.runs[usize::from(run)].writer.take() else {
                    return;
                };
                let ending = ending(state, run, &writer);
                change(state, run, ending);
                if !writer.resumed {
                    let gateway = state.runs[usize::from(run)].gateway;
                    state.gateways[usize::from(gateway)].alive = false;
                }
            }
        }
    }

    fn admit(&self, state: &mut State, gateway: u8, lease: u8, again: bool) {
        let of_gateway = &mut state.gateways[usize::from(gateway)];
        let Some(run) = of_gateway.run else { return };
        let request = match of_gateway.to_readmit.take_if(|_| again) {
            Some(request) => request,
            None => new_request(state),
        };
        reserve(state, lease);
        writer(state, run).begin(What::Request(Event {
            request,
            lease,
            readmitted: again,
        }));
        if self.is(Mutant::AnswerBeforeStored) {
            state.answered |= 1 << request;
        }
    }

    fn attempt(&self, state: &mut State, run: u8, fate: Fate) {
        let Some(sending) = writer(state, run).sending else {
            return;
        };
        let Next::Publish { message, expected } = sending.next else {
            return;
        };
        let publish = Publish {
            run,
            expected: expected as u8,
            record: sending.what.record(message),
        };
        let outcome = match fate {
            Fate::Answered => self.deliver(state, publish),
            Fate::Delayed => {
                state.faults.unclear += 1;
                if self.can_land(state, &publish) {
                    state.wire.insert(publish);
                }
                AttemptOutcome::Unclear
            }
            Fate::Refused => {
                state.faults.refusals += 1;
                // NATS checks the expected sequence first.
                if self.can_land(state, &publish) {
                    AttemptOutcome::Refused
                } else {
                    AttemptOutcome::WrongLast
                }
            }
        };
        if let (AttemptOutcome::Unclear, What::Request(event), false) = (outcome, sending.what, sending.refunded)
            && self.is(Mutant::RefundUnknown)
        {
            refund(state, event.lease);
            if let Some(sending) = &mut writer(state, run).sending {
                sending.refunded = true;
            }
        }
        let next = writer(state, run).lane.attempted(outcome);
        self.go_on(state, run, next);
    }

    /// Does what the lane requests of its writer next. A outcome ends the message.
    fn go_on(&self, state: &mut State, run: u8, next: Next) {
        let gateway = state.runs[usize::from(run)].gateway;
        let of_writer = writer(state, run);
        let Next::Done(outcome) = next else {
            if let Some(sending) = &mut of_writer.sending {
                sending.next = next;
            }
            return;
        };
        let Some(sending) = of_writer.sending.take() else {
            return;
        };
        let fenced = of_writer.lane.end() == Some(End::Fenced);
        let is_old = !of_writer.resumed && state.gateways[usize::from(gateway)].run != Some(run);
        if is_old {
            state.runs[usize::from(run)].writer = None;
        }
        match (sending.what, outcome) {
            (What::Request(event), MessageOutcome::Stored) => {
                state.answered |= 1 << event.request;
                if !sending.refunded {
                    spend(state, event.lease);
                }
            }
            (What::Request(event), MessageOutcome::NotStored) => {
                if !sending.refunded {
                    refund(state, event.lease);
                }
                let of_gateway = &mut state.gateways[usize::from(gateway)];
                if fenced && self.bounds.readmits && !of_gateway.stopping {
                    of_gateway.to_readmit.get_or_insert(event.request);
                }
            }
            (What::Spooled(event), MessageOutcome::Stored) => {
                state.runs[usize::from(run)]
                    .spool
                    .retain(|waiting| waiting.event != event);
            }
            (What::Request(event), MessageOutcome::Unknown) if !sending.refunded => spend(state, event.lease),
            (What::Request(_), MessageOutcome::Unknown) | (What::Spooled(_) | What::Open | What::Close, _) => {}
        }
    }

    fn can_land(&self, state: &State, publish: &Publish) -> bool {
        let last = state.runs[usize::from(publish.run)].log.len();
        usize::from(publish.expected) == last || self.is(Mutant::NoExpectedSequence)
    }

    fn deliver(&self, state: &mut State, publish: Publish) -> AttemptOutcome {
        if !self.can_land(state, &publish) {
            return AttemptOutcome::WrongLast;
        }
        let sequence = self.append(state, publish.run, publish.record);
        AttemptOutcome::Stored { sequence }
    }

    fn append(&self, state: &mut State, run: u8, record: Record) -> u64 {
        let log = &mut state.runs[usize::from(run)].log;
        log.push(record);
        let sequence = log.len() as u64;
        if !self.is(Mutant::NoExpectedSequence) {
            // An attempt that expects an earlier sequence can never succeed, so it is removed.
            state
                .wire
                .retain(|publish| publish.run != run || u64::from(publish.expected) >= sequence);
        }
        sequence
    }

    fn replace(&self, state: &mut State, gateway: u8) {
        let Some(old) = state.gateways[usize::from(gateway)].run.take() else {
            return;
        };
        if !self.is(Mutant::KeepLeases) {
            drop_leases(state, gateway);
        }
        let of_gateway = &mut state.gateways[usize::from(gateway)];
        of_gateway.spooling = false;
        let in_flight = state.runs[usize::from(old)].writer.as_ref().and_then(|old| old.sending);
        if let Some(What::Request(event)) = in_flight.map(|sending| sending.what)
            && self.is(Mutant::ReadmitBeforeOutcome)
        {
            of_gateway.to_readmit.get_or_insert(event.request);
        }
        // The message that is in flight in the old run still gets its outcome.
        state.runs[usize::from(old)]
            .writer
            .take_if(|writer| writer.sending.is_none());
        if state.gateways[usize::from(gateway)].stopping {
            state.gateways[usize::from(gateway)].alive = false;
            return;
        }
        self.begin_run(state, gateway);
    }

    /// The message in flight becomes the first one of the spool and is acknowledged with it. So nothing else of this process
    /// can be in progress when another process drains the spool.
    fn start_spooling(&self, state: &mut State, gateway: u8) {
        let of_gateway = &mut state.gateways[usize::from(gateway)];
        of_gateway.spooling = true;
        let Some(run) = of_gateway.run else { return };
        change(state, run, Transition::StartSpooling);
        let of_run = &mut state.runs[usize::from(run)];
        let Some(writer) = &mut of_run.writer else { return };
        if let Some(sending) = &mut writer.sending
            && let What::Request(event) = sending.what
            && !self.is(Mutant::SpoolWithoutInFlight)
        {
            sending.what = What::Spooled(event);
            of_run.spool.push(Spooled {
                event,
                in_flight: Some(writer.lane.last().0 as u8),
            });
            writer.lane.keep();
            state.answered |= 1 << event.request;
            spend(state, event.lease);
        }
    }

    fn restart(&self, state: &mut State, gateway: u8) {
        state.gateways[usize::from(gateway)].alive = true;
        for run in 0..state.runs.len() as u8 {
            let of_run = &mut state.runs[usize::from(run)];
            if of_run.gateway != gateway || !of_run.row.acknowledges_from_spool() {
                continue;
            }
            // A message of the previous process may still be on its way: the first batch of the spool. Sent again, it is stored
            // once.
            let Ok(lane) = Lane::resume(of_run.last_record()) else {
                continue;
            };
            let mut spool_state = SpoolState::of(&lane);
            of_run
                .spool
                .iter()
                .for_each(|spooled| spool_state.pass(spooled.batch()));
            let Ok(stored) = spool_state.stored() else { continue };
            of_run.spool.drain(..stored as usize);
            of_run.writer = Some(Writer {
                lane,
                sending: None,
                resumed: true,
            });
        }
        self.begin_run(state, gateway);
    }

    fn begin_run(&self, state: &mut State, gateway: u8) {
        if state.runs.len() < self.bounds.runs {
            state.gateways[usize::from(gateway)].run = Some(state.runs.len() as u8);
            state.runs.push(Run {
                writer: Some(Writer::opening()),
                ..Run::new(gateway)
            });
        }
    }
}

fn spool(state: &mut State, gateway: u8, lease: u8) {
    let Some(run) = state.gateways[usize::from(gateway)].run else {
        return;
    };
    let request = new_request(state);
    reserve(state, lease);
    spend(state, lease);
    let event = Event {
        request,
        lease,
        readmitted: false,
    };
    let spooled = Spooled { event, in_flight: None };
    state.runs[usize::from(run)].spool.push(spooled);
    state.answered |= 1 << request;
}

fn settle(state: &mut State, run: u8) {
    for lease in 0..state.leases.len() {
        let counted = state.stored().filter(|event| usize::from(event.lease) == lease).count() as i64;
        let of_lease = &mut state.leases[lease];
        if of_lease.run == run {
            state.granted -= of_lease.row.settle(state.runs[usize::from(run)].row, counted);
        }
    }
    let holds_leases = state.holds_leases(run);
    change(state, run, Transition::Settle { holds_leases });
}

/// A conditional update of the run's row: does nothing if the row's state does not allow the transition.
fn change(state: &mut State, run: u8, transition: Transition) {
    let row = &mut state.runs[usize::from(run)].row;
    *row = row.after(transition).unwrap_or(*row);
}

/// The memory of the process is lost. Messages on the wire, Postgres and the spool remain.
fn crash(state: &mut State, gateway: u8) {
    state.faults.crashes += 1;
    drop_leases(state, gateway);
    let of_gateway = &mut state.gateways[usize::from(gateway)];
    (of_gateway.alive, of_gateway.run, of_gateway.to_readmit) = (false, None, None);
    of_gateway.spooling = false;
    for run in state.runs.iter_mut().filter(|run| run.gateway == gateway) {
        run.writer = None;
    }
}

fn drop_leases(state: &mut State, gateway: u8) {
    for lease in &mut state.leases {
        if state.runs[usize::from(lease.run)].gateway == gateway {
            lease.local = Local::None;
        }
    }
}

fn new_request(state: &mut State) -> u8 {
    let request = state.requests;
    state.requests += 1;
    request
}

fn code(batch: BatchId) -> u8 {
    batch.0.as_u128() as u8
}

fn writer(state: &mut State, run: u8) -> &mut Writer {
    state.runs[usize::from(run)]
        .writer
        .as_mut()
        .expect("an action of a writer is offered only where there is one")
}
