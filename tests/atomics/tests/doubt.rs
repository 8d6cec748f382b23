//! A row changes and its change is announced, while the row is read for another reason and requests use the copy.

use atomics::Doubt;
use loom::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};
use protocol::doubt::Moment;

/// A row of PostgreSQL, and the copy in memory. Each is a version.
#[derive(Default)]
struct World {
    row: AtomicU64,
    copy: AtomicU64,
    doubt: Doubt,
}

impl World {
    fn settled() -> Arc<Self> {
        let world = Self::default();
        world.doubt.settle(Moment::FIRST);
        Arc::new(world)
    }

    fn read_again(&self) {
        let moment = self.doubt.moment();
        let row = self.row.load(Ordering::Acquire);
        self.copy.store(row, Ordering::Release);
        self.doubt.settle(moment);
    }

    fn announce_change(&self) {
        self.row.store(1, Ordering::Release);
        self.doubt.raise();
    }

    fn use_copy(&self) {
        if self.doubt.is_settled() {
            assert_eq!(self.copy.load(Ordering::Acquire), 1, "an outdated copy is used");
        }
    }
}

#[test]
fn after_an_announcement_no_outdated_copy_is_used() {
    loom::model(|| {
        let world = World::settled();
        let reader = {
            let world = Arc::clone(&world);
            thread::spawn(move || world.read_again())
        };
        world.announce_change();
        world.use_copy();
        reader.join().unwrap();
        world.use_copy();
    });
}

#[test]
fn a_read_after_the_announcement_settles() {
    loom::model(|| {
        let world = World::settled();
        let reader = {
            let world = Arc::clone(&world);
            thread::spawn(move || world.read_again())
        };
        world.announce_change();
        reader.join().unwrap();
        world.read_again();
        assert!(world.doubt.is_settled());
        world.use_copy();
    });
}

/// An incorrect reader that takes the moment after it has read the row.
#[test]
#[should_panic(expected = "an outdated copy is used")]
fn a_moment_that_is_taken_after_the_read_hides_a_change() {
    loom::model(|| {
        let world = World::settled();
        let reader = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                let row = world.row.load(Ordering::Acquire);
                let moment = world.doubt.moment();
                world.copy.store(row, Ordering::Release);
                world.doubt.settle(moment);
            })
        };
        world.announce_change();
        reader.join().unwrap();
        world.use_copy();
    });
}
