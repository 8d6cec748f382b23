//! Whether something waits for the broker already: put into its queue by the first who has news, and by nobody else until the
//! broker looks. What it promises: news that was there before [`Queued::ask`] is seen by the look that follows.

use crate::atomics::{Atomics, Flag, Ordering, Std};

/// The flag over the standard library's atomics.
pub type Queued = QueuedOver<Std>;

#[derive(Debug, Default)]
pub struct QueuedOver<A: Atomics> {
    waits: A::Flag,
}

impl<A: Atomics> QueuedOver<A> {
    /// After the news is there. True for the first since the broker looked: it has to be queued.
    pub fn ask(&self) -> bool {
        !self.waits.swap(true, Ordering::AcqRel)
    }

    /// Before the broker looks at the news: what comes up from here on asks again.
    pub fn look(&self) {
        // A swap, not a store: it reads what the last `ask` wrote, and so sees the news before it. After a mere store the look
        // may come too early (`tests/atomics` shows it), and the news of one who was told "it waits already" would be lost.
        self.waits.swap(false, Ordering::AcqRel);
    }
}
