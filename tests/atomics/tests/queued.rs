//! A request queues a counter for the lease client while the lease client examines it.

use atomics::{Lease, Queued};
use loom::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

#[test]
fn units_refunded_to_a_closed_lease_are_seen_or_queued_again() {
    loom::model(|| {
        let lease = Arc::new(Lease::new(1, 1));
        lease.close();
        let queued = Arc::new(Queued::default());
        assert!(queued.ask(), "the counter is queued");
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
        assert!(seen || again, "the notification is lost");
    });
}

/// An incorrect flag that is cleared by a store.
#[derive(Default)]
struct Stored {
    waits: AtomicBool,
}

#[test]
#[should_panic(expected = "the notification is lost")]
fn a_flag_that_is_cleared_by_a_store_loses_a_notification() {
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
        assert!(seen || again, "the notification is lost");
    });
}
