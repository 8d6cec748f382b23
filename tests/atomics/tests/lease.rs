//! Requests that spend and put back, while a counter is closed and given back.

use atomics::Lease;
use loom::{sync::Arc, thread};
use protocol::lease::Snapshot;

/// Two requests, and a broker that tells Postgres twice: while they may be under way, and when they are done. The units that
/// the requests spent, both totals, and how the lease ended.
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
        let told = first(&lease);
        let spent = spender.join().expect("it spends and ends");
        failing.join().expect("it puts back and ends");
        let end = lease.snapshot();
        assert!(end.is_final());
        assert_eq!(end.unspent + spent, 3);
        assert!(told.unspent <= end.unspent, "given back and spent");
        assert!(!told.is_final() || told == end, "final and then changed");
    });
}

#[test]
fn what_was_given_back_of_a_closed_lease_is_never_spent() {
    give_back_under_requests(Lease::close);
}

#[test]
#[should_panic(expected = "given back and spent")]
fn giving_back_before_closing_gives_back_what_is_spent() {
    give_back_under_requests(|lease| {
        let told = lease.snapshot();
        lease.close();
        told
    });
}

#[test]
fn one_renewal_is_asked_whoever_asks() {
    loom::model(|| {
        let lease = Arc::new(Lease::new(2, 0));
        let other = Arc::clone(&lease);
        let asks = thread::spawn(move || other.ask_renewal());
        let both = [lease.ask_renewal(), asks.join().unwrap()];
        assert_eq!(both.iter().filter(|asked| **asked).count(), 1);
    });
}
