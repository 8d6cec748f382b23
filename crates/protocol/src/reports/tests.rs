//! Random schedules of everything that may happen to one line: usage, corrections, lost answers, a Stripe that forgets
//! identifiers after exactly 24 hours, and workers that die between any two of their writes.

use std::collections::HashMap;

use proptest::prelude::*;
use schema::AccountId;

use super::{
    identifier::{LineId, identifier},
    ledger::{Decision, Line},
    outcome::DeliveryOutcome,
    period::{BilledBy, BillingPeriod, Way},
    report::{CLAIM, Mark, Next, Report},
};

const HOUR: i64 = 3_600;

#[derive(Clone, Debug)]
enum Event {
    Use(i64),
    Correct(i64),
    Pass(i64),
    /// One step, and where and how it fails.
    Step(Fault),
    Finalize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    DiesBeforeWriting,
    DiesAfterWriting,
    DiesAfterClaiming,
    /// Stripe recorded it, and the worker died before it wrote that down.
    DiesAfterSending,
    LostBefore,
    LostAfter,
    Busy,
}

/// The row in PostgreSQL of the one report that is not done.
#[derive(Clone, Debug)]
struct Stored {
    identifier: String,
    from: i64,
    to: i64,
    reported_for: i64,
    report: Report,
    claimed_until: i64,
    next_attempt_at: i64,
}

struct World {
    now: i64,
    counted: i64,
    corrections: i64,
    period: BillingPeriod,
    line: Line,
    open: Option<Stored>,
    /// Units carried out of the period.
    carried: i64,
    parked: u32,
    stripe_total: i64,
    stripe_remembers: HashMap<String, i64>,
}

impl World {
    fn new() -> Self {
        Self {
            now: 1_800_000_000,
            counted: 0,
            corrections: 0,
            period: BillingPeriod {
                account: AccountId::NIL,
                start: 1_800_000_000,
                from: 1_800_000_000,
                end: 1_800_000_000 + 3 * 24 * HOUR,
                meter_slot: 0,
                customer: "cus_1".into(),
                subscription: "sub_1".into(),
                plan: None,
                version: None,
                final_at: None,
                billed_by: BilledBy::Invoice,
            },
            line: Line::default(),
            open: None,
            carried: 0,
            parked: 0,
            stripe_total: 0,
            stripe_remembers: HashMap::new(),
        }
    }

    fn happen(&mut self, event: &Event) {
        match event {
            Event::Use(units) => self.counted += units,
            Event::Correct(units) => {
                let units = (*units).min(self.counted);
                self.counted -= units;
                self.corrections -= units;
            }
            Event::Pass(seconds) => self.now += seconds,
            Event::Step(fault) => self.step(*fault),
            Event::Finalize => {
                if self.now > self.period.end {
                    self.period.final_at = Some(self.now);
                }
            }
        }
    }

    fn step(&mut self, fault: Fault) {
        if fault != Fault::DiesBeforeWriting {
            self.draft();
        }
        if matches!(fault, Fault::DiesBeforeWriting | Fault::DiesAfterWriting) {
            return;
        }
        self.send(fault);
    }

    fn draft(&mut self) {
        if self.open.is_some() {
            return;
        }
        let decision = self
            .line
            .decide(self.counted, self.corrections, self.period.way(self.now));
        if self.line.delta(self.counted).is_some_and(|delta| delta >= 0) {
            self.line.net(self.corrections);
        }
        match decision {
            Decision::Even | Decision::Wait => {}
            Decision::Drift { units } => panic!("drift of {units}: {:?}", self.line),
            Decision::Carry { units, .. } => {
                self.line.carry_out(units);
                self.carried += units;
            }
            Decision::Report { from, to, reported_for } => {
                self.line.reports += 1;
                let line = LineId {
                    account: AccountId::NIL,
                    start: self.period.start,
                    usage_type: "api_call".into(),
                };
                self.open = Some(Stored {
                    identifier: identifier("cus_1", &line, self.line.reports, from, to),
                    from,
                    to,
                    reported_for,
                    report: Report::default(),
                    claimed_until: 0,
                    next_attempt_at: self.now,
                });
            }
        }
    }

    fn send(&mut self, fault: Fault) {
        let Some(mut stored) = self.open.clone() else { return };
        if stored.claimed_until > self.now || stored.next_attempt_at > self.now {
            return;
        }
        let (before, now) = (stored.report, self.now);
        let next = before.next(self.period.way_of(stored.reported_for, now), now);
        let mark = match next {
            Next::Wait(until) => {
                stored.next_attempt_at = until;
                self.open = Some(stored);
                return;
            }
            Next::Withdraw(_) => {
                self.open = None;
                return;
            }
            Next::Send => {
                stored.report = before.sending(now);
                stored.claimed_until = now + CLAIM;
                self.open = Some(stored.clone());
                if fault == Fault::DiesAfterClaiming {
                    return;
                }
                let unknown = || DeliveryOutcome::Unknown { why: "500".into() };
                let outcome = match fault {
                    Fault::LostBefore => unknown(),
                    Fault::Busy => DeliveryOutcome::NotNow {
                        why: "lock".into(),
                        after: None,
                    },
                    _ => {
                        self.receive(&stored);
                        match fault {
                            Fault::DiesAfterSending => return,
                            Fault::LostAfter => unknown(),
                            _ => DeliveryOutcome::Delivered,
                        }
                    }
                };
                before.sent(outcome, now)
            }
            Next::Compare => {
                stored.report = before.comparing();
                match fault {
                    Fault::None => before.compared(stored.from, stored.to, self.stripe_total, now),
                    _ => before.not_compared("500".into(), now),
                }
            }
        };
        stored.claimed_until = 0;
        match mark {
            Mark::Delivered => {
                self.line.deliver(stored.to - stored.from);
                self.open = None;
            }
            Mark::Open {
                first_sent_at,
                next_attempt_at,
                ..
            } => {
                stored.report.first_sent_at = first_sent_at;
                stored.next_attempt_at = next_attempt_at;
                self.open = Some(stored);
            }
            Mark::Parked { .. } => self.parked += 1,
        }
    }

    /// An event at Stripe.
    fn receive(&mut self, stored: &Stored) {
        assert!(
            self.period.final_at.is_none(),
            "reported after the invoice was finalized"
        );
        assert!(self.now - stored.reported_for <= 35 * 24 * HOUR, "too old for Stripe");
        assert!(matches!(self.period.way(stored.reported_for), Way::Report { .. }));
        let (now, remembers) = (self.now, &mut self.stripe_remembers);
        remembers.retain(|_, at| now - *at < 24 * HOUR);
        if remembers.insert(stored.identifier.clone(), now).is_none() {
            self.stripe_total += stored.to - stored.from;
        }
    }
}

fn event() -> impl Strategy<Value = Event> {
    let fault = prop_oneof![
        2 => Just(Fault::None),
        1 => Just(Fault::DiesBeforeWriting),
        1 => Just(Fault::DiesAfterWriting),
        1 => Just(Fault::DiesAfterClaiming),
        1 => Just(Fault::DiesAfterSending),
        1 => Just(Fault::LostBefore),
        1 => Just(Fault::LostAfter),
        1 => Just(Fault::Busy),
    ];
    prop_oneof![
        4 => (1i64..1_000).prop_map(Event::Use),
        // Back to the same numbers, and forward again.
        2 => Just(Event::Use(10)),
        2 => Just(Event::Correct(10)),
        1 => (1i64..500).prop_map(Event::Correct),
        3 => (0i64..2_000).prop_map(Event::Pass),
        2 => (0i64..30 * HOUR).prop_map(Event::Pass),
        8 => fault.prop_map(Event::Step),
        1 => Just(Event::Finalize),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn reported_units_are_counted_units(events in prop::collection::vec(event(), 1..60)) {
        let mut world = World::new();
        events.iter().for_each(|event| world.happen(event));
        // The faults are over. The line must come to rest soon.
        for _ in 0..60 {
            world.happen(&Event::Step(Fault::None));
            world.happen(&Event::Pass(HOUR));
        }
        prop_assert!(world.open.is_none(), "{:?}", world.open);
        prop_assert_eq!(world.parked, 0);
        prop_assert_eq!(world.line.reported, world.stripe_total);
        prop_assert_eq!(world.stripe_total, world.counted - world.carried);
        prop_assert_eq!(world.carried, world.line.carried_out);
        // No earlier correction explains units that are lost from now on.
        let way = world.period.way(world.now);
        let missing = world.line.decide(world.counted - 1, world.corrections, way);
        prop_assert_eq!(missing, Decision::Drift { units: -1 });
    }
}
