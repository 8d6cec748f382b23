//! A request that leaves news, while the lease client looks.

use atomics::{Lease, Queued};
use loom::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

#[test]
fn units_that_come_back_to_a_closed_lease_are_seen_by_the_look_or_queued_again() {
    loom::model(|| {
        let lease = Arc::new(Lease::new(1, 1));
        lease.close();
        let queued = Arc::new(Queued::default());
        assert!(queued.ask(), "it is queued");
        let request = {
            let (lease, queued) = (Arc::clone(&lease), Arc::clone(&queued));
            thread::spawn(move || {
                lease.refund(1);
                queued.ask()
            })
        };
        queued.look();
        let seen = lease.snapshot().is_final();
        let again = request.join().unwrap();
        assert!(seen || again, "the news is lost");
    });
}

/// A wrong flag: cleared by a store.
#[derive(Default)]
struct Stored {
    waits: AtomicBool,
}

#[test]
#[should_panic(expected = "the news is lost")]
fn a_look_that_only_stores_comes_too_early() {
    loom::model(|| {
        let lease = Arc::new(Lease::new(1, 1));
        lease.close();
        let queued = Arc::new(Stored {
            waits: AtomicBool::new(true),
        });
        let request = {
            let (lease, queued) = (Arc::clone(&lease), Arc::clone(&queued));
            thread::spawn(move || {
                lease.refund(1);
                !queued.waits.swap(true, Ordering::AcqRel)
            })
        };
        queued.waits.store(false, Ordering::Release);
        let seen = lease.snapshot().is_final();
        let again = request.join().unwrap();
        assert!(seen || again, "the news is lost");
    });
}
