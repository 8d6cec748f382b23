//! What an action changes.

use super::{
    LeaseLaneFence,
    action::{Action, Fate, Told},
    bounds::Mutant,
    state::{Event, GiveBack, Lease, LeaseRow, Local, Publish, Record, Run, RunRow, State, What, Writer},
};
use protocol::lane::{Answer, End, Next, Verdict};

impl LeaseLaneFence {
    pub(super) fn step(&self, state: &mut State, action: Action) {
        match action {
            Action::Acquire { gateway, units, answer } => acquire(state, gateway, units, answer),
            Action::Admit { gateway, lease, anew } => self.admit(state, gateway, lease, anew),
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
                of_run.row = RunRow::Fencing;
                let gateway = &state.gateways[usize::from(of_run.gateway)];
                if gateway.alive && gateway.run == Some(run) {
                    state.faults.suspicions += 1;
                }
            }
            Action::Fence { run } => {
                let last = state.runs[usize::from(run)].last_batch();
                self.append(state, run, Record::Fence(last));
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
                writer(state, run).begin(What::Spooled(first));
            }
            Action::EndSpooling { gateway } => {
                let of_gateway = &mut state.gateways[usize::from(gateway)];
                of_gateway.spooling = false;
                if let Some(run) = of_gateway.run {
                    state.runs[usize::from(run)].row = RunRow::Live;
                }
            }
            Action::Stop { gateway } => state.gateways[usize::from(gateway)].stopping = true,
            Action::CloseLane { run } => writer(state, run).begin(What::Close),
            Action::CloseRun { run } => {
                let of_run = &mut state.runs[usize::from(run)];
                let resumed = of_run.writer.take().is_some_and(|writer| writer.resumed);
                if resumed {
                    of_run.row = RunRow::Fencing;
                } else {
                    of_run.row = RunRow::Closed;
                    state.gateways[usize::from(of_run.gateway)].alive = false;
                }
            }
        }
    }

    fn admit(&self, state: &mut State, gateway: u8, lease: u8, anew: bool) {
        let of_gateway = &mut state.gateways[usize::from(gateway)];
        let Some(run) = of_gateway.run else { return };
        let request = match of_gateway.anew.take_if(|_| anew) {
            Some(request) => request,
            None => new_request(state),
        };
        take_unit(state, lease);
        writer(state, run).begin(What::Request(Event { request, lease, anew }));
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
        let answer = match fate {
            Fate::Answered => self.deliver(state, publish),
            Fate::Delayed => {
                state.faults.unclear += 1;
                if self.can_land(state, &publish) {
                    state.wire.insert(publish);
                }
                Answer::Unclear
            }
            Fate::Refused => {
                state.faults.refusals += 1;
                // NATS looks at the expected sequence first.
                if self.can_land(state, &publish) {
                    Answer::Refused
                } else {
                    Answer::WrongLast
                }
            }
        };
        if let (Answer::Unclear, What::Request(event), false) = (answer, sending.what, sending.refunded)
            && self.is(Mutant::RefundUnknown)
        {
            put_unit_back(state, event.lease);
            if let Some(sending) = &mut writer(state, run).sending {
                sending.refunded = true;
            }
        }
        let next = writer(state, run).lane.answered(answer);
        self.go_on(state, run, next);
    }

    /// What the lane wants next of its writer; a verdict ends the message.
    fn go_on(&self, state: &mut State, run: u8, next: Next) {
        let gateway = state.runs[usize::from(run)].gateway;
        let of_writer = writer(state, run);
        let Next::Done(verdict) = next else {
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
        match (sending.what, verdict) {
            (What::Request(event), Verdict::Stored) => state.answered |= 1 << event.request,
            (What::Request(event), Verdict::NotStored) => {
                if !sending.refunded {
                    put_unit_back(state, event.lease);
                }
                let of_gateway = &mut state.gateways[usize::from(gateway)];
                if fenced && self.bounds.anew && !of_gateway.stopping {
                    of_gateway.anew.get_or_insert(event.request);
                }
            }
            (What::Spooled(event), Verdict::Stored) => {
                state.runs[usize::from(run)].spool.retain(|waiting| *waiting != event);
            }
            (What::Request(_), Verdict::Unknown) | (What::Spooled(_) | What::Open | What::Close, _) => {}
        }
    }

    fn can_land(&self, state: &State, publish: &Publish) -> bool {
        let last = state.runs[usize::from(publish.run)].log.len();
        usize::from(publish.expected) == last || self.is(Mutant::NoExpectedSequence)
    }

    fn deliver(&self, state: &mut State, publish: Publish) -> Answer {
        if !self.can_land(state, &publish) {
            return Answer::WrongLast;
        }
        let sequence = self.append(state, publish.run, publish.record);
        Answer::Stored { sequence }
    }

    fn append(&self, state: &mut State, run: u8, record: Record) -> u64 {
        let log = &mut state.runs[usize::from(run)].log;
        log.push(record);
        let sequence = log.len() as u64;
        if !self.is(Mutant::NoExpectedSequence) {
            // What expects an earlier sequence is refused for ever: it may as well be gone.
            state
                .wire
                .retain(|publish| publish.run != run || u64::from(publish.expected) >= sequence);
        }
        sequence
    }

    fn give_back(&self, state: &mut State, lease: u8) {
        let is_last = state.reservations(lease) == 0;
        let of_lease = &mut state.leases[usize::from(lease)];
        let (total, last) = match of_lease.local {
            Local::None => return,
            Local::Unknown => (GiveBack::ALL, true),
            Local::Open { unspent } | Local::Closing { unspent, .. } => (unspent, is_last),
        };
        if !(self.is(Mutant::ReturnBeforeClose) && matches!(of_lease.local, Local::Open { .. })) {
            of_lease.local = match of_lease.local {
                Local::Open { unspent } | Local::Closing { unspent, .. } if !last => {
                    Local::Closing { unspent, told: total }
                }
                _ => Local::None,
            };
        }
        state.give_backs.insert(GiveBack { lease, total, last });
    }

    /// The transaction in Postgres. Of a run that is being ended nothing is taken back: settling does that.
    fn take_back(&self, state: &mut State, give_back: GiveBack) {
        let lease = &mut state.leases[usize::from(give_back.lease)];
        let is_ours = matches!(state.runs[usize::from(lease.run)].row, RunRow::Live | RunRow::Spooling);
        if lease.row != LeaseRow::Live || !is_ours {
            return;
        }
        let total = give_back.total.min(lease.units);
        let total = if self.is(Mutant::ReturnDifferences) {
            lease.back + total
        } else {
            total.max(lease.back)
        };
        state.granted -= total - lease.back;
        lease.back = total;
        if give_back.last && !self.is(Mutant::ReturnDifferences) {
            lease.row = LeaseRow::Returned;
        }
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
            && self.is(Mutant::AdmitAnewBeforeVerdict)
        {
            of_gateway.anew.get_or_insert(event.request);
        }
        // What is in flight there still gets its verdict.
        state.runs[usize::from(old)]
            .writer
            .take_if(|writer| writer.sending.is_none());
        if state.gateways[usize::from(gateway)].stopping {
            state.gateways[usize::from(gateway)].alive = false;
            return;
        }
        self.begin_run(state, gateway);
    }

    /// The message in flight is the spool's first, and acknowledged with it: so nothing else of this process can be under way
    /// when another drains.
    fn start_spooling(&self, state: &mut State, gateway: u8) {
        let of_gateway = &mut state.gateways[usize::from(gateway)];
        of_gateway.spooling = true;
        let Some(run) = of_gateway.run else { return };
        let of_run = &mut state.runs[usize::from(run)];
        of_run.row = RunRow::Spooling;
        let sending = of_run.writer.as_mut().and_then(|writer| writer.sending.as_mut());
        if let Some(sending) = sending
            && let What::Request(event) = sending.what
            && !self.is(Mutant::SpoolWithoutInFlight)
        {
            sending.what = What::Spooled(event);
            of_run.spool.push(event);
            state.answered |= 1 << event.request;
        }
    }

    fn restart(&self, state: &mut State, gateway: u8) {
        state.gateways[usize::from(gateway)].alive = true;
        for run in 0..state.runs.len() as u8 {
            let of_run = &mut state.runs[usize::from(run)];
            if of_run.gateway != gateway || of_run.row != RunRow::Spooling {
                continue;
            }
            // What may still be under way from before is the spool's first batch: sent again, it is stored once.
            let log = &of_run.log;
            of_run.spool.retain(|event| !log.contains(&Record::Batch(*event)));
            of_run.writer = Some(Writer::behind(of_run.log.len() as u64, true));
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

fn acquire(state: &mut State, gateway: u8, units: i8, answer: Told) {
    let Some(run) = state.gateways[usize::from(gateway)].run else {
        return;
    };
    state.granted += units;
    let local = match answer {
        Told::Told => Local::Open { unspent: units },
        Told::NotTold => {
            state.faults.unclear += 1;
            Local::Unknown
        }
    };
    state.leases.push(Lease {
        run,
        units,
        back: 0,
        row: LeaseRow::Live,
        local,
    });
}

fn spool(state: &mut State, gateway: u8, lease: u8) {
    let Some(run) = state.gateways[usize::from(gateway)].run else {
        return;
    };
    let request = new_request(state);
    take_unit(state, lease);
    let event = Event {
        request,
        lease,
        anew: false,
    };
    state.runs[usize::from(run)].spool.push(event);
    state.answered |= 1 << request;
}

fn settle(state: &mut State, run: u8) {
    for lease in 0..state.leases.len() {
        let spent = state.stored().filter(|event| usize::from(event.lease) == lease).count() as i8;
        let of_lease = &mut state.leases[lease];
        if of_lease.run == run && of_lease.row == LeaseRow::Live {
            let back = of_lease.units - spent;
            state.granted -= back - of_lease.back;
            of_lease.back = back;
            of_lease.row = LeaseRow::Settled;
        }
    }
    state.runs[usize::from(run)].row = RunRow::Settled;
}

/// What the process had in memory is gone; what is on the wire, in Postgres and in the spool is not.
fn crash(state: &mut State, gateway: u8) {
    state.faults.crashes += 1;
    drop_leases(state, gateway);
    let of_gateway = &mut state.gateways[usize::from(gateway)];
    (of_gateway.alive, of_gateway.run, of_gateway.anew) = (false, None, None);
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

fn take_unit(state: &mut State, lease: u8) {
    if let Local::Open { unspent } = &mut state.leases[usize::from(lease)].local {
        *unspent -= 1;
    }
}

fn put_unit_back(state: &mut State, lease: u8) {
    match &mut state.leases[usize::from(lease)].local {
        Local::Open { unspent } | Local::Closing { unspent, .. } => *unspent += 1,
        Local::None | Local::Unknown => {}
    }
}

fn writer(state: &mut State, run: u8) -> &mut Writer {
    state.runs[usize::from(run)]
        .writer
        .as_mut()
        .expect("an action of a writer is offered only where there is one")
}
