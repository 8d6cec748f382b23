//! Whether the copy of a row in memory may be outdated. An announced change of the row puts its copy in doubt until the row is read
//! again. A copy in doubt is not used.
//!
//! # Promise
//! The row changes, then [`DoubtOver::raise`] is called. A copy that is settled afterwards is of a read that began after the change.
//! loom checks this (`tests/atomics`).

use crate::atomics::{Atomics, Ordering, Std, Word};

/// The doubt over the standard library's atomics.
pub type Doubt = DoubtOver<Std>;

/// One word, so that requests load it once: in the upper half how many changes were heard, in the lower half how many of them were
/// read. Settled: both are equal. They may wrap around, because only differences are used.
#[derive(Debug)]
pub struct DoubtOver<A: Atomics> {
    word: A::Word,
}

/// A moment before a read: the changes that had been heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment(u32);

impl Moment {
    /// The moment of a new copy, before it is heard of any change.
    pub const FIRST: Self = Self(1);
}

impl<A: Atomics> DoubtOver<A> {
    /// The doubt of a new copy. It is in doubt: a change may have been announced after its row was read and before announcements
    /// found the copy.
    pub fn new() -> Self {
        Self {
            word: A::Word::new(word(Moment::FIRST.0, 0)),
        }
    }

    /// Call it after the row has changed.
    pub fn raise(&self) {
        self.update(|heard, read| (heard.wrapping_add(1), read));
    }

    /// Call it before reading the row.
    pub fn moment(&self) -> Moment {
        Moment(halves(self.word.load(Ordering::Acquire)).0)
    }

    /// Call it after a row that was read after `moment` has replaced the copy. A change that was heard since keeps the copy in doubt.
    pub fn settle(&self, moment: Moment) {
        self.update(|heard, read| {
            let is_news = heard.wrapping_sub(moment.0) < heard.wrapping_sub(read);
            (heard, if is_news { moment.0 } else { read })
        });
    }

    /// Whether the copy may be used.
    #[inline]
    pub fn is_settled(&self) -> bool {
        let (heard, read) = halves(self.word.load(Ordering::Acquire));
        heard == read
    }

    fn update(&self, change: impl Fn(u32, u32) -> (u32, u32)) {
        let changed = |old| {
            let (heard, read) = halves(old);
            let (heard, read) = change(heard, read);
            Some(word(heard, read))
        };
        // It always changes.
        self.word
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, changed)
            .ok();
    }
}

impl<A: Atomics> Default for DoubtOver<A> {
    fn default() -> Self {
        Self::new()
    }
}

fn word(heard: u32, read: u32) -> u64 {
    u64::from(heard) << 32 | u64::from(read)
}

#[expect(clippy::cast_possible_truncation, reason = "the halves of a word")]
#[inline]
fn halves(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_copy_is_in_doubt_until_its_first_read_is_known_to_be_current() {
        let doubt = Doubt::new();
        assert!(!doubt.is_settled());
        doubt.settle(Moment::FIRST);
        assert!(doubt.is_settled());
        let doubt = Doubt::new();
        doubt.raise();
        doubt.settle(Moment::FIRST);
        assert!(!doubt.is_settled(), "a change was heard since");
    }

    #[test]
    fn only_a_read_after_the_last_change_settles() {
        let doubt = Doubt::new();
        doubt.settle(Moment::FIRST);
        let before = doubt.moment();
        doubt.raise();
        assert!(!doubt.is_settled());
        doubt.settle(before);
        assert!(!doubt.is_settled());
        let between = doubt.moment();
        doubt.raise();
        let after = doubt.moment();
        doubt.settle(after);
        assert!(doubt.is_settled());
        doubt.settle(between);
        assert!(doubt.is_settled(), "an earlier read that ends later changes nothing");
    }

    #[test]
    fn the_numbers_wrap_around() {
        let doubt = Doubt {
            word: Word::new(word(u32::MAX, u32::MAX)),
        };
        assert!(doubt.is_settled());
        doubt.raise();
        let moment = doubt.moment();
        assert!(!doubt.is_settled());
        doubt.settle(moment);
        assert!(doubt.is_settled());
    }
}
