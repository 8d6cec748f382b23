//! Requests spend and return units while a counter is closed and its units are given back.

use atomics::Lease;
use loom::{sync::Arc, thread};
use protocol::lease::Snapshot;

/// Two requests, and a lease client that sends two totals: one while the requests may be in progress, one after they are done.
/// Checks the units that the requests spent, both totals, and the end of the lease.
fn give_back_under_requests(first: impl Fn(&Lease) -> Snapshot + Sync + Send + 'static) {
    loom::model(move || {
        let lease = Arc::new(Lease::new(3, 0));
        let spender = {
            let lease = Arc::clone(&lease);
            thread::spawn(move || {
                let admitted = lease.try_spend(2).is_some();
                if admitted {
                    lease.spent();
                }
                if admitted { 2 } else { 0 }
            })
        };
        let failing = {
            let lease = Arc::clone(&lease);
            thread::spawn(move || {
                if lease.try_spend(1).is_some() {
                    lease.refund(1);
                }
            })
        };
        let early = first(&lease);
        let spent = spender.join().expect("the spender does not panic");
        failing.join().expect("the failing request does not panic");
        let end = lease.snapshot();
        assert!(end.is_final());
        assert_eq!(end.unspent + spent, 3);
        assert!(early.unspent <= end.unspent, "given back and spent");
        assert!(!early.is_final() || early == end, "final and then changed");
    });
}

#[test]
fn units_given_back_after_closing_are_never_spent() {
    give_back_under_requests(Lease::close);
}

#[test]
#[should_panic(expected = "given back and spent")]
fn giving_back_before_closing_gives_back_spent_units() {
    give_back_under_requests(|lease| {
        let early = lease.snapshot();
        lease.close();
        early
    });
}

#[test]
fn two_threads_ask_for_one_renewal() {
    loom::model(|| {
        let lease = Arc::new(Lease::new(2, 0));
        let other = Arc::clone(&lease);
        let asks = thread::spawn(move || other.ask_renewal());
        let both = [lease.ask_renewal(), asks.join().unwrap()];
        assert_eq!(both.iter().filter(|asked| **asked).count(), 1);
    });
}
