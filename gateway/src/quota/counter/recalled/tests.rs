//! Counters of several gateways over one pool. The test takes the part of the lease clients and of the messages.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use protocol::grant::Pool;
use schema::LeaseId;
use tokio::sync::oneshot::error::TryRecvError;

use super::RecallFound;
use crate::quota::{
    counter::tests::Bench,
    leases::{Decision, LeaseAnswer, Work},
    reservation::Reservation,
};

const SCARCE: Duration = Duration::from_secs(60);

#[test]
fn a_recall_closes_first_and_is_answered_when_postgres_has_the_units() {
    let mut bench = Bench::new(1_000);
    bench.acquire(1).reservation.spent();
    let RecallFound::Units(mut result) = bench.counter().recall(bench.period.start) else {
        panic!("15 units are held");
    };
    assert!(bench.spend(1).is_none(), "closed before anything is given back");
    let work = bench.counter().work(Instant::now()).unwrap();
    assert_eq!(result.try_recv(), Err(TryRecvError::Empty));
    let decision = bench.decide(&work, &mut Vec::new());
    bench.publish(work, decision);
    assert_eq!((result.try_recv(), bench.pool.granted), (Ok(true), 1));
    assert!(matches!(
        bench.counter().recall(bench.period.start),
        RecallFound::Nothing
    ));
}

#[test]
fn a_recall_does_not_wait_for_reserved_units() {
    let mut bench = Bench::new(1_000);
    let reserved = bench.acquire(16).reservation;
    let held: Vec<Reservation> = std::iter::from_fn(|| Some(bench.spend(1)?.reservation)).collect();
    assert!(matches!(
        bench.counter().recall(bench.period.start),
        RecallFound::Nothing
    ));
    drop(reserved);
    assert!(
        bench.spend(16).is_none(),
        "the lease is closed: others may count on its units"
    );
    assert!(bench.counter().has_units_to_give());
    drop(held);
    bench.serve(&mut Vec::new());
    assert_eq!(bench.pool.granted, 0);
}

#[test]
fn a_lease_on_its_way_here_serves_its_request_and_goes_back_before_the_answer() {
    let mut bench = Bench::new(1_000);
    let mut returned = Vec::new();
    let mut answer = bench.ask(1, false);
    let work = bench.counter().work(Instant::now()).unwrap();
    let decision = bench.decide(&work, &mut returned);
    assert_eq!(bench.pool.granted, 16);
    let RecallFound::Units(mut result) = bench.counter().recall(bench.period.start) else {
        panic!("16 units may be on their way");
    };
    bench.publish(work, decision);
    assert!(matches!(answer.try_recv(), Ok(LeaseAnswer::Granted(_))));
    assert_eq!(result.try_recv(), Err(TryRecvError::Empty), "15 of them are still here");
    bench.serve(&mut returned);
    assert_eq!(result.try_recv(), Ok(true));
}

#[test]
fn a_failed_transaction_is_reported_and_its_units_stay_owed() {
    let mut bench = Bench::new(1_000);
    bench.acquire(1).reservation.spent();
    let RecallFound::Units(mut result) = bench.counter().recall(bench.period.start) else {
        panic!("15 units are held");
    };
    let work = bench.counter().work(Instant::now()).unwrap();
    assert!(bench.counter().give_up(work, true).is_none());
    assert_eq!(result.try_recv(), Ok(false));
    bench.serve(&mut Vec::new());
    assert_eq!(bench.pool.granted, 1);
}

#[test]
fn a_lease_of_unknown_outcome_is_given_back_before_the_answer() {
    let mut bench = Bench::new(1_000);
    let _answer = bench.ask(1, false);
    let work = bench.counter().work(Instant::now()).unwrap();
    // Granted, but its answer was lost.
    bench.decide(&work, &mut Vec::new());
    bench.counter().give_up(work, true);
    let RecallFound::Units(mut result) = bench.counter().recall(bench.period.start) else {
        panic!("PostgreSQL may have granted 16 units");
    };
    bench.serve(&mut Vec::new());
    assert_eq!(result.try_recv(), Ok(true));
}

#[test]
fn an_abandoned_counter_does_not_answer() {
    let mut bench = Bench::new(1_000);
    bench.acquire(1).reservation.spent();
    let RecallFound::Units(mut result) = bench.counter().recall(bench.period.start) else {
        panic!("15 units are held");
    };
    bench.counter().abandon();
    assert_eq!(result.try_recv(), Err(TryRecvError::Closed));
}

#[test]
fn after_a_recall_leases_cover_just_the_cost_and_nothing_is_renewed_for_a_while() {
    let mut bench = Bench::new(1_000);
    bench.acquire(1).reservation.spent();
    let now = Instant::now();
    let wanted = |bench: &Bench, cost, now| {
        let _answer = bench.ask(cost, false);
        let work = bench.counter().work(now).unwrap();
        let wanted = work.want.as_ref().unwrap().wanted;
        bench.counter().give_up(work, false);
        wanted
    };
    bench.counter().note_recall(now, SCARCE);
    assert_eq!(wanted(&bench, 3, now), 3);
    while let Some(hit) = bench.spend(1) {
        hit.reservation.spent();
    }
    assert!(
        bench.counter().work(now).is_none(),
        "half is spent, and no renewal is requested"
    );
    assert!(wanted(&bench, 3, now + SCARCE) >= 16);
}

#[test]
fn returned_units_are_announced_only_while_another_gateway_may_remember_a_refusal() {
    let mut bench = Bench::new(1_000);
    let first = bench.acquire(1).reservation;
    drop(first);
    assert!(!bench.counter().signals.is_watched());
    bench.counter().note_recall(Instant::now(), SCARCE);
    assert!(bench.counter().signals.is_watched());
}

/// Gateways that share a pool. Each has one lease client: a transaction ends before the next begins.
struct Gateways {
    benches: Vec<Bench>,
    under_way: Vec<Option<(Work, Decision)>>,
    pool: Pool,
    returned: Vec<(LeaseId, i64)>,
    scarce_for: Duration,
}

impl Gateways {
    fn new(count: usize, limit: i64, scarce_for: Duration) -> Self {
        Self {
            benches: (0..count).map(|_| Bench::new(limit)).collect(),
            under_way: (0..count).map(|_| None).collect(),
            pool: Pool { limit, granted: 0 },
            returned: Vec::new(),
            scarce_for,
        }
    }

    /// PostgreSQL decides, and the gateway does not know it yet.
    fn begin(&mut self, gateway: usize) {
        if self.under_way[gateway].is_some() {
            return;
        }
        let bench = &mut self.benches[gateway];
        if let Some(work) = bench.counter().work(Instant::now()) {
            bench.pool = self.pool;
            let decision = bench.decide(&work, &mut self.returned);
            self.pool = bench.pool;
            self.under_way[gateway] = Some((work, decision));
        }
    }

    fn end(&mut self, gateway: usize) {
        if let Some((work, decision)) = self.under_way[gateway].take() {
            self.benches[gateway].publish(work, decision);
        }
    }

    fn ask(&mut self, gateway: usize, cost: i64, surrender: bool) -> Option<Reservation> {
        self.end(gateway);
        let mut answer = self.benches[gateway].ask(cost, surrender);
        self.begin(gateway);
        self.end(gateway);
        match answer.try_recv() {
            Ok(LeaseAnswer::Granted(hit)) => Some(hit.reservation),
            _ => None,
        }
    }

    /// As a request is admitted: units at hand, then the pool, then both together, then the units of others.
    fn admit(&mut self, gateway: usize, cost: i64) -> Option<Reservation> {
        if let Some(hit) = self.benches[gateway].spend(cost) {
            return Some(hit.reservation);
        }
        for surrender in [false, true] {
            if let Some(reservation) = self.ask(gateway, cost, surrender) {
                return Some(reservation);
            }
        }
        for other in (0..self.benches.len()).filter(|other| *other != gateway) {
            self.recall(other);
        }
        self.ask(gateway, cost, true)
    }

    fn recall(&mut self, holder: usize) {
        let bench = &self.benches[holder];
        bench.counter().note_recall(Instant::now(), self.scarce_for);
        let RecallFound::Units(mut result) = bench.counter().recall(bench.period.start) else {
            return;
        };
        for _ in 0..2 {
            if result.try_recv() == Ok(true) {
                return;
            }
            self.end(holder);
            self.begin(holder);
        }
        self.end(holder);
        assert_eq!(result.try_recv(), Ok(true), "answered after at most two transactions");
    }

    fn unspent(&self) -> i64 {
        let held = self.benches.iter();
        let held: i64 = held.map(|bench| bench.counter().unspent_units(&bench.period)).sum();
        self.pool.remaining() + held
    }
}

#[derive(Clone, Debug)]
enum Step {
    Admit { gateway: usize, cost: i64 },
    Settle { which: usize, spent: bool },
    Begin(usize),
    End(usize),
    Recall(usize),
    Close(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let gateway = 0usize..3;
    let cost = prop_oneof![6 => Just(1i64), 3 => Just(7), 1 => Just(50)];
    prop_oneof![
        8 => (gateway.clone(), cost).prop_map(|(gateway, cost)| Step::Admit { gateway, cost }),
        6 => (any::<usize>(), any::<bool>()).prop_map(|(which, spent)| Step::Settle { which, spent }),
        3 => gateway.clone().prop_map(Step::Begin),
        3 => gateway.clone().prop_map(Step::End),
        1 => gateway.clone().prop_map(Step::Recall),
        1 => gateway.prop_map(Step::Close),
    ]
}

proptest! {
    /// At any time, a request is admitted if and only if its cost is unspent in the pool and at all gateways together.
    #[test]
    fn a_request_is_refused_only_if_no_gateway_and_no_pool_has_its_units(
        limit in 1i64..300,
        scarce in any::<bool>(),
        steps in prop::collection::vec(step(), 0..120),
    ) {
        let scarce_for = if scarce { SCARCE } else { Duration::ZERO };
        let mut gateways = Gateways::new(3, limit, scarce_for);
        let (mut reserved, mut spent) = (Vec::<Reservation>::new(), 0);
        for step in steps {
            match step {
                Step::Admit { gateway, cost } => {
                    let unspent = limit - spent - reserved.iter().map(Reservation::cost).sum::<i64>();
                    let admitted = gateways.admit(gateway, cost);
                    prop_assert_eq!(admitted.is_some(), cost <= unspent, "cost {}, {} unspent", cost, unspent);
                    reserved.extend(admitted);
                }
                Step::Settle { which, spent: is_spent } if !reserved.is_empty() => {
                    let reservation = reserved.swap_remove(which % reserved.len());
                    if is_spent {
                        spent += reservation.cost();
                        reservation.spent();
                    }
                }
                Step::Settle { .. } => {}
                Step::Begin(gateway) => gateways.begin(gateway),
                Step::End(gateway) => gateways.end(gateway),
                Step::Recall(gateway) => gateways.recall(gateway),
                Step::Close(gateway) => gateways.benches[gateway].counter().close(),
            }
            prop_assert!(gateways.pool.granted <= limit);
        }
        // Nothing is lost: all units except the spent ones can be spent again.
        reserved.clear();
        for gateway in 0..3 {
            gateways.end(gateway);
            gateways.recall(gateway);
        }
        prop_assert_eq!((gateways.pool.granted, gateways.unspent()), (spent, limit - spent));
    }
}
