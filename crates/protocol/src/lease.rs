//! The units of one lease, as one atomic word: requests spend them, the holder closes the lease once, and the rest goes back.
//!
//! ```text
//! open ─ try_spend ─> one more reservation      reservation ─ spent ─> its units are gone
//! open ─ close ─> closed                                    └ refund ─> its units are unspent again
//! closed, no reservation ─> final
//! ```
//!
//! One word holds all three facts (open or closed, reservations, unspent units). So each transition is one atomic operation,
//! and no thread sees half of one.
//!
//! # Promises
//! - At most one request reserves a unit, and no request does after the lease is closed.
//! - After closing, the unspent units only grow (a request that failed puts its units back). So they are an absolute total to
//!   give back ([`crate::give_back`]): giving it back twice gives back once.
//! - Closed without reservations is final: nothing about the lease changes any more.
//!
//! loom checks these over every order of the threads (`tests/atomics`). The model `lease_lane_fence` steps this code.

use crate::atomics::{Atomics, Flag, Ordering, Std, Word};

/// `closed (1 bit) | reservations (20 bits) | unspent units (43 bits)`
const CLOSED: u64 = 1 << 63;
const RESERVATION: u64 = 1 << 43;
const UNSPENT: u64 = RESERVATION - 1;
const RESERVATIONS: u64 = !CLOSED & !UNSPENT;

/// The maximum units of one lease, and so the maximum cost of one request: about 8.8 trillion (8.8 × 10¹²).
pub const UNITS_MAX: i64 = UNSPENT.cast_signed();

/// A lease over the standard library's atomics.
pub type Lease = LeaseOver<Std>;

#[derive(Debug)]
pub struct LeaseOver<A: Atomics> {
    word: A::Word,
    units: i64,
    renewal_asked: A::Flag,
}

/// A lease at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Snapshot {
    /// Not reserved and not spent.
    pub unspent: i64,
    /// Requests in progress that hold units.
    pub reservations: u64,
    pub closed: bool,
}

impl Snapshot {
    /// Nothing about the lease changes any more.
    pub fn is_final(&self) -> bool {
        self.closed && self.reservations == 0
    }
}

impl<A: Atomics> LeaseOver<A> {
    /// An open lease of `units`. One request holds `reserved` of them from the start; 0: no request does.
    pub fn new(units: i64, reserved: i64) -> Self {
        debug_assert!((0..=units).contains(&reserved) && units <= UNITS_MAX);
        let reservations = if reserved > 0 { RESERVATION } else { 0 };
        Self {
            word: A::Word::new(reservations | (units - reserved).cast_unsigned()),
            units,
            renewal_asked: A::Flag::default(),
        }
    }

    /// A lease of `units` in the state `at`. The models keep the state between two steps.
    pub fn resume(units: i64, at: Snapshot) -> Self {
        let closed = if at.closed { CLOSED } else { 0 };
        Self {
            word: A::Word::new(closed | (at.reservations * RESERVATION) | at.unspent.cast_unsigned()),
            units,
            renewal_asked: A::Flag::default(),
        }
    }

    /// The units at the start.
    pub fn units(&self) -> i64 {
        self.units
    }

    pub fn snapshot(&self) -> Snapshot {
        unpack(self.word.load(Ordering::Acquire))
    }

    /// Units that can still be reserved: none once the lease is closed.
    pub fn left(&self) -> i64 {
        let now = self.snapshot();
        if now.closed { 0 } else { now.unspent }
    }

    /// Reserves `cost` units if that many are left, and returns how many are left afterwards.
    pub fn try_spend(&self, cost: i64) -> Option<i64> {
        let take = u64::try_from(cost).ok()?;
        let reserve = |word: u64| {
            let full = word & RESERVATIONS == RESERVATIONS;
            let enough = word & CLOSED == 0 && word & UNSPENT >= take;
            (enough && !full).then(|| word - take + RESERVATION)
        };
        let before = self
            .word
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, reserve)
            .ok()?;
        Some(unpack(before).unspent - cost)
    }

    /// A reservation ends and its units are gone.
    pub fn spent(&self) -> Snapshot {
        unpack(self.word.fetch_sub(RESERVATION, Ordering::AcqRel) - RESERVATION)
    }

    /// A reservation of `cost` units ends and its units are unspent again. An open lease can spend them, a closed one gives
    /// them back.
    pub fn refund(&self, cost: i64) -> Snapshot {
        // These units were taken from this word, so the sum stays below the bits of the reservations.
        let change = RESERVATION - cost.cast_unsigned();
        unpack(self.word.fetch_sub(change, Ordering::AcqRel) - change)
    }

    /// Closes the lease: nothing can be reserved any more. The unspent units go back to the pool.
    pub fn close(&self) -> Snapshot {
        unpack(self.word.fetch_or(CLOSED, Ordering::AcqRel) | CLOSED)
    }

    /// True for the first caller: each lease is renewed once.
    pub fn ask_renewal(&self) -> bool {
        !self.renewal_asked.load(Ordering::Relaxed) && !self.renewal_asked.swap(true, Ordering::Relaxed)
    }
}

fn unpack(word: u64) -> Snapshot {
    Snapshot {
        unspent: (word & UNSPENT).cast_signed(),
        reservations: (word & RESERVATIONS) / RESERVATION,
        closed: word & CLOSED != 0,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicI64;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn units_are_reserved_while_enough_are_left_and_the_lease_is_open() {
        let lease = Lease::new(10, 3);
        assert_eq!(lease.try_spend(8), None);
        assert_eq!(lease.try_spend(7), Some(0));
        assert_eq!(lease.try_spend(1), None);
        assert_eq!(lease.refund(7).unspent, 7);
        lease.close();
        assert_eq!((lease.try_spend(1), lease.left()), (None, 0));
        let last = lease.refund(3);
        assert_eq!((last.unspent, last.is_final()), (10, true));
    }

    #[test]
    fn the_largest_lease_does_not_change_the_other_fields_of_the_word() {
        let lease = Lease::new(UNITS_MAX, UNITS_MAX);
        assert_eq!(lease.refund(UNITS_MAX), Lease::new(UNITS_MAX, 0).snapshot());
        assert_eq!(lease.try_spend(UNITS_MAX), Some(0));
        let closed = lease.close();
        assert_eq!((closed.unspent, closed.reservations, closed.closed), (0, 1, true));
        assert!(lease.spent().is_final());
    }

    #[test]
    fn a_lease_is_resumed_as_it_was() {
        let lease = Lease::new(10, 3);
        lease.try_spend(2);
        for _ in 0..2 {
            assert_eq!(Lease::resume(10, lease.snapshot()).snapshot(), lease.snapshot());
            lease.close();
        }
    }

    #[test]
    fn a_lease_asks_for_one_renewal() {
        let lease = Lease::new(10, 0);
        assert_eq!([lease.ask_renewal(), lease.ask_renewal()], [true, false]);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Spend(i64),
        Settle { which: usize, spent: bool },
        Close,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (1i64..30).prop_map(Step::Spend),
            4 => (any::<usize>(), any::<bool>()).prop_map(|(which, spent)| Step::Settle { which, spent }),
            1 => Just(Step::Close),
        ]
    }

    proptest! {
        #[test]
        fn units_are_conserved_and_totals_to_give_back_never_fall(
            units in 1i64..100,
            steps in prop::collection::vec(step(), 0..60),
        ) {
            let lease = Lease::new(units, 0);
            let (mut held, mut gone, mut closed, mut total) = (Vec::new(), 0, false, 0);
            for step in steps {
                let open_before = lease.left();
                match step {
                    Step::Spend(cost) => match lease.try_spend(cost) {
                        Some(left) => {
                            prop_assert_eq!(left, open_before - cost);
                            prop_assert!(!closed);
                            held.push(cost);
                        }
                        None => prop_assert!(closed || open_before < cost),
                    },
                    Step::Settle { which, spent } if !held.is_empty() => {
                        let cost = held.swap_remove(which % held.len());
                        if spent {
                            lease.spent();
                            gone += cost;
                        } else {
                            lease.refund(cost);
                        }
                    }
                    Step::Settle { .. } => {}
                    Step::Close => {
                        lease.close();
                        closed = true;
                    }
                }
                let now = lease.snapshot();
                prop_assert_eq!(now.unspent + held.iter().sum::<i64>() + gone, units);
                prop_assert_eq!((now.reservations, now.closed), (held.len() as u64, closed));
                if closed {
                    prop_assert!(now.unspent >= total);
                    total = now.unspent;
                }
            }
        }
    }

    #[test]
    fn threads_that_spend_refund_and_close_lose_and_double_nothing() {
        const UNITS: i64 = 20_000;
        let lease = Lease::new(UNITS, 0);
        let gone = AtomicI64::new(0);
        std::thread::scope(|scope| {
            for thread in 0..4i64 {
                let (lease, gone) = (&lease, &gone);
                scope.spawn(move || {
                    for n in 0.. {
                        let cost = 1 + (n + thread) % 7;
                        if lease.try_spend(cost).is_none() {
                            break;
                        }
                        if n % 3 == 0 {
                            lease.refund(cost);
                        } else {
                            lease.spent();
                            gone.fetch_add(cost, Ordering::Relaxed);
                        }
                    }
                });
            }
            let (lease, gone) = (&lease, &gone);
            scope.spawn(move || {
                while lease.left() > UNITS / 4 && gone.load(Ordering::Relaxed) < UNITS / 2 {
                    std::hint::spin_loop();
                }
                lease.close();
            });
        });
        let end = lease.snapshot();
        assert!(end.is_final());
        assert_eq!(end.unspent + gone.load(Ordering::Relaxed), UNITS);
    }
}
