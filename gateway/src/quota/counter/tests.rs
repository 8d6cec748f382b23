//! A counter whose lease client is the test itself: nothing here waits, and there is no database.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use prometheus_client::registry::Registry;
use proptest::prelude::*;
use protocol::give_back::Total;
use protocol::grant::{self, Pool};
use schema::{AccountId, Catalogue, Period, PoolType, UsageType};
use tokio::sync::oneshot::{self, Receiver};

use super::*;
use crate::{
    accounts::account::{Account, Facts},
    quota::{
        counters::AccountCounters,
        leases::{Decision, Others, requests::LeaseRequests},
        metrics::QuotaMetrics,
    },
};

const NOW: i64 = 1_800_000_000;

pub(super) struct Bench {
    pub account: AccountCounters,
    pub usage_type: UsageType,
    pub period: Period,
    pub pool: Pool,
}

impl Bench {
    pub(super) fn new(limit: i64) -> Self {
        let catalogue = Arc::new(Catalogue::built_in());
        let facts = Facts {
            suspended: false,
            subscription: None,
            subscription_changed: None,
            owed_invoice_url: None,
            overrides: vec![None; catalogue.usage_types().len()].into(),
            spend_cap: None,
        };
        let account = Account::new(AccountId::new(), facts, &catalogue, NOW, 0);
        let period = account.current_plan(NOW).period;
        let (requests, _) = LeaseRequests::new(QuotaMetrics::register(&mut Registry::default()));
        Self {
            period,
            usage_type: catalogue.usage_types()[0],
            account: AccountCounters::new(account, &requests),
            pool: Pool { limit, granted: 0 },
        }
    }

    pub(super) fn counter(&self) -> &Counter {
        self.account.counter(PoolType::Limited(self.usage_type))
    }

    pub(super) fn spend(&self, cost: i64) -> Option<Hit> {
        self.counter().spend(&self.period, cost)
    }

    pub(super) fn ask(&self, cost: i64, surrender: bool) -> Receiver<LeaseAnswer> {
        let (reply, answer) = oneshot::channel();
        self.counter().leave(LeaseRequest {
            state: Arc::clone(&self.account.account.state(NOW)),
            period: self.account.account.current_plan(NOW).period,
            cost,
            surrender,
            reply,
        });
        answer
    }

    /// Does this work as PostgreSQL would.
    pub(super) fn decide(&mut self, work: &Work, returned: &mut Vec<(LeaseId, i64)>) -> Decision {
        for given in &work.give_backs {
            let before = match returned.iter_mut().find(|(id, _)| *id == given.lease_id) {
                Some((_, before)) => before,
                None => {
                    returned.push((given.lease_id, 0));
                    &mut returned.last_mut().unwrap().1
                }
            };
            self.pool.granted -= given.total - *before;
            *before = given.total;
        }
        let Some(want) = &work.want else {
            return Decision::Nothing;
        };
        match grant::grant_units(self.pool.remaining(), want.needed, want.wanted, 1) {
            0 => Decision::Refused {
                pool: self.pool,
                others: Others::default(),
                spent: None,
            },
            units => {
                self.pool.granted += units;
                Decision::Granted { units, pool: self.pool }
            }
        }
    }

    pub(super) fn publish(&self, work: Work, decision: Decision) {
        if let Some((reply, answer)) = self.counter().publish(work, decision, true, Instant::now()) {
            drop(reply.send(answer));
        }
    }

    /// One transaction of the lease client.
    pub(super) fn serve(&mut self, returned: &mut Vec<(LeaseId, i64)>) {
        if let Some(work) = self.counter().work(Instant::now()) {
            let decision = self.decide(&work, returned);
            self.publish(work, decision);
        }
    }

    /// Asks for a lease and spends `cost` of it.
    pub(super) fn acquire(&mut self, cost: i64) -> Hit {
        let mut answer = self.ask(cost, false);
        self.serve(&mut Vec::new());
        match answer.try_recv().unwrap() {
            LeaseAnswer::Granted(hit) => hit,
            other => panic!("not granted: {other:?}"),
        }
    }
}

#[test]
fn a_lease_serves_its_request_first_then_all_of_its_period() {
    let mut bench = Bench::new(1_000);
    assert!(bench.spend(1).is_none());
    let first = bench.acquire(1);
    assert_eq!((first.seen.held, first.seen.pool.granted), (15, 16));
    for left in (0..15).rev() {
        // Dropped, it comes back; spent, it does not.
        drop(bench.spend(1).unwrap());
        let hit = bench.spend(1).unwrap();
        assert_eq!(hit.seen.held, left);
        hit.reservation.spent();
    }
    assert!(bench.spend(1).is_none());
    let next_period = Period {
        start: bench.period.end,
        end: bench.period.end + 1,
    };
    assert!(bench.counter().spend(&next_period, 1).is_none());
}

#[test]
fn an_answer_that_no_request_takes_puts_its_units_back() {
    let mut bench = Bench::new(1_000);
    let answer = bench.ask(3, false);
    let work = bench.counter().work(Instant::now()).unwrap();
    let decision = bench.decide(&work, &mut Vec::new());
    drop(answer);
    bench.publish(work, decision);
    assert_eq!(bench.counter().open_units(&bench.period), 48);
}

#[test]
fn a_request_for_a_lease_whose_client_left_is_dropped() {
    let bench = Bench::new(1_000);
    drop(bench.ask(3, false));
    assert!(bench.counter().work(Instant::now()).is_none());
}

#[test]
fn one_renewal_is_requested_at_half_and_arrives_before_the_lease_is_used_up() {
    let mut bench = Bench::new(1_000);
    bench.acquire(1).reservation.spent();
    let mut renewals = 0;
    for _ in 0..15 {
        let hit = bench.spend(1).unwrap();
        if hit.renew {
            renewals += 1;
            assert_eq!(hit.seen.held, 8);
            bench.serve(&mut Vec::new());
        }
        hit.reservation.spent();
    }
    assert_eq!(renewals, 1);
    assert!(bench.spend(1).is_some());
}

#[test]
fn a_third_lease_closes_the_oldest_and_its_rest_is_owed() {
    let mut bench = Bench::new(1_000);
    bench.acquire(10).reservation.spent();
    bench.acquire(200).reservation.spent();
    assert!(!bench.counter().has_units_to_give());
    let open = bench.counter().open_units(&bench.period);
    bench.acquire(300).reservation.spent();
    assert!(bench.counter().has_units_to_give());
    assert_eq!(bench.counter().unspent_units(&bench.period), bench.pool.granted - 510);
    assert!(bench.counter().open_units(&bench.period) < open + 300);
    bench.serve(&mut Vec::new());
    assert!(!bench.counter().owes());
}

#[test]
fn surrender_closes_all_leases_and_asks_in_the_same_transaction() {
    let mut bench = Bench::new(40);
    bench.acquire(10).reservation.spent();
    bench.spend(5).unwrap().reservation.spent();
    bench.acquire(7).reservation.spent();
    let (held, free) = (bench.counter().open_units(&bench.period), bench.pool.remaining());
    assert_eq!(held + free, 18);
    assert!(bench.spend(18).is_none() && free < 18);

    let mut answer = bench.ask(18, true);
    let work = bench.counter().work(Instant::now()).unwrap();
    assert_eq!(work.give_backs.iter().map(|given| given.total).sum::<i64>(), held);
    let decision = bench.decide(&work, &mut Vec::new());
    bench.publish(work, decision);
    assert!(matches!(answer.try_recv(), Ok(LeaseAnswer::Granted(_))));
}

#[test]
fn a_lease_granted_under_an_old_limit_serves_only_the_request_that_waited() {
    let mut bench = Bench::new(1_000);
    let mut answer = bench.ask(1, false);
    let work = bench.counter().work(Instant::now()).unwrap();
    let decision = bench.decide(&work, &mut Vec::new());
    bench.counter().close();
    bench.publish(work, decision);
    let Ok(LeaseAnswer::Granted(hit)) = answer.try_recv() else {
        panic!("not granted");
    };
    assert!(bench.spend(1).is_none());
    let mut returned = Vec::new();
    bench.serve(&mut returned);
    assert_eq!(bench.pool.granted, 1);
    drop(hit);
    bench.serve(&mut returned);
    assert_eq!(bench.pool.granted, 0);
    assert!(bench.counter().is_empty());
}

#[test]
fn a_lease_of_unknown_outcome_is_owed_in_full() {
    let bench = Bench::new(1_000);
    let mut answer = bench.ask(1, false);
    let work = bench.counter().work(Instant::now()).unwrap();
    let lease_id = work.want.as_ref().unwrap().lease_id;
    if let Some((reply, answer)) = bench.counter().give_up(work, true) {
        drop(reply.send(answer));
    }
    assert!(matches!(answer.try_recv(), Ok(LeaseAnswer::Unavailable)));
    let work = bench.counter().work(Instant::now()).unwrap();
    assert_eq!(
        work.give_backs,
        [GiveBack {
            lease_id,
            period_start: bench.period.start,
            total: Total::ALL.units,
            last: true
        }]
    );
    bench.publish(work, Decision::Nothing);
    assert!(bench.counter().is_empty());
}

#[test]
fn a_new_period_closes_the_leases_of_the_old_one() {
    let mut bench = Bench::new(1_000);
    bench.acquire(1).reservation.spent();
    let state = Arc::clone(&bench.account.account.state(bench.period.end));
    let (reply, _answer) = oneshot::channel();
    bench.counter().leave(LeaseRequest {
        period: state.current_plan.period,
        state,
        cost: 1,
        surrender: false,
        reply,
    });
    let work = bench.counter().work(Instant::now()).unwrap();
    assert_eq!(work.want.unwrap().period.start, bench.period.end);
    assert_eq!(
        (work.give_backs[0].period_start, work.give_backs[0].total),
        (bench.period.start, 15)
    );
}

#[test]
fn a_counter_is_idle_if_nothing_was_spent_between_two_checks() {
    let mut bench = Bench::new(1_000);
    let (start, idle_after) = (Instant::now(), Duration::from_secs(30));
    let later = |seconds| start + Duration::from_secs(seconds);
    assert!(!bench.counter().is_idle(start, idle_after), "it holds nothing");
    bench.acquire(1).reservation.spent();
    assert!(!bench.counter().is_idle(later(0), idle_after));
    assert!(!bench.counter().is_idle(later(29), idle_after));
    assert!(bench.counter().is_idle(later(30), idle_after));
    bench.spend(1).unwrap().reservation.spent();
    assert!(!bench.counter().is_idle(later(31), idle_after));
    assert!(!bench.counter().is_idle(later(60), idle_after));
    assert!(bench.counter().is_idle(later(61), idle_after));
}

#[test]
fn an_abandoned_counter_owes_nothing_and_its_reservations_change_nothing() {
    let mut bench = Bench::new(1_000);
    let hit = bench.acquire(4);
    bench.counter().abandon();
    assert!(bench.counter().is_empty());
    assert!(bench.spend(1).is_none());
    drop(hit);
    assert!(bench.counter().work(Instant::now()).is_none());
}

#[derive(Clone, Debug)]
enum Step {
    Admit(i64),
    Settle { which: usize, spent: bool },
    Serve,
    Close,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1i64..20).prop_map(Step::Admit),
        5 => (any::<usize>(), any::<bool>()).prop_map(|(which, spent)| Step::Settle { which, spent }),
        3 => Just(Step::Serve),
        1 => Just(Step::Close),
    ]
}

proptest! {
    /// After every step in any order the sums agree, and at the end everything is back except the spent units.
    #[test]
    fn granted_is_what_is_spent_reserved_and_unspent(
        limit in 1i64..400,
        steps in prop::collection::vec(step(), 0..80),
    ) {
        let mut bench = Bench::new(limit);
        let (mut reserved, mut spent, mut returned) = (Vec::new(), 0, Vec::new());
        for step in steps {
            match step {
                Step::Admit(cost) => {
                    let unspent = limit - spent - reserved.iter().map(Reservation::cost).sum::<i64>();
                    let mut hit = bench.spend(cost);
                    for surrender in [false, true] {
                        if hit.is_none() {
                            let mut answer = bench.ask(cost, surrender);
                            bench.serve(&mut returned);
                            if let Ok(LeaseAnswer::Granted(granted)) = answer.try_recv() {
                                hit = Some(granted);
                            }
                        }
                    }
                    prop_assert_eq!(hit.is_some(), cost <= unspent, "cost {}, {} unspent", cost, unspent);
                    reserved.extend(hit.map(|hit| hit.reservation));
                }
                Step::Settle { which, spent: is_spent } if !reserved.is_empty() => {
                    let reservation = reserved.swap_remove(which % reserved.len());
                    if is_spent {
                        spent += reservation.cost();
                        reservation.spent();
                    }
                }
                Step::Settle { .. } => {}
                Step::Serve => bench.serve(&mut returned),
                Step::Close => bench.counter().close(),
            }
            let held = reserved.iter().map(Reservation::cost).sum::<i64>();
            let unspent = bench.counter().unspent_units(&bench.period);
            prop_assert_eq!(bench.pool.granted, spent + held + unspent);
            prop_assert!(bench.pool.granted <= limit);
        }
        reserved.clear();
        bench.counter().close();
        bench.serve(&mut returned);
        prop_assert_eq!(bench.pool.granted, spent);
        prop_assert!(bench.counter().is_empty());
    }
}
