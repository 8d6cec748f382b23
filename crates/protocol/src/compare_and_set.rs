//! Writes the entry of a shard by compare-and-set, and resolves a write whose outcome is unknown.
//!
//! The bucket stores an entry only if the shard still has the revision that the write names. So of all writes over one
//! revision it stores at most one, whenever they arrive. One write can be sent any number of times.
//!
//! ```text
//! over(revision) ─> Update ─ written ─> Done(Written)
//!                          ─ wrong revision, and no earlier attempt is unclear ─> Done(Lost)
//!                          ─ wrong revision, or nothing is known ─> Read ─ the revision is unchanged ─> Update
//!                                                                        ─ the entry is ours ─> Done(Written)
//!                                                                        ─ any other entry ─> Done(Lost)
//! ```
//!
//! # Promises
//! - Written: the bucket has stored the entry once, directly over the named revision.
//! - Lost: another entry is the current one, and the write is never stored from now on.
//!
//! The tests of this module check this against a bucket that delays, repeats and loses writes. The model `manifest` decides
//! each claim, each sealed range and each finished range with this code. Its mutants `NoCompareAndSet`, `NoSecondLook` and
//! `UnclearIsWritten` ignore it and fail.

/// One write of one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Write {
    over: u64,
    /// An attempt may have been stored, or may still be.
    is_unclear: bool,
}

/// The next action of the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Send the entry over the named revision, then call [`Write::updated`].
    Update,
    /// Read the entry from the bucket's leader, then call [`Write::read`].
    Read,
    Done(WriteOutcome),
}

/// What is known after one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdateOutcome {
    Written {
        revision: u64,
    },
    /// This attempt is not stored and never will be.
    WrongRevision,
    /// A timeout, a disconnect, or any other error.
    Unclear,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// The entry is stored and has this revision.
    Written { revision: u64 },
    /// Another process wrote. Its entry counts.
    Lost,
}

impl Write {
    /// A write over this revision. The caller begins with [`Next::Update`].
    pub fn over(revision: u64) -> Self {
        Self {
            over: revision,
            is_unclear: false,
        }
    }

    /// Handles the outcome of one attempt.
    pub fn updated(&mut self, outcome: UpdateOutcome) -> Next {
        match outcome {
            UpdateOutcome::Written { revision } => Next::Done(WriteOutcome::Written { revision }),
            UpdateOutcome::WrongRevision if !self.is_unclear => Next::Done(WriteOutcome::Lost),
            // An earlier attempt may be the write that changed the revision.
            UpdateOutcome::WrongRevision => Next::Read,
            UpdateOutcome::Unclear => {
                self.is_unclear = true;
                Next::Read
            }
        }
    }

    /// Handles the bucket's current entry and its revision. `written`: the entry that was sent. It names its writer, so no
    /// other process writes the same one.
    pub fn read<E: PartialEq>(&self, written: &E, found: Option<&E>, revision: u64) -> Next {
        if is_held(self.over, revision) {
            // The attempt may still arrive. It has the same content over the same revision, so the bucket stores one of them.
            Next::Update
        } else if found == Some(written) {
            Next::Done(WriteOutcome::Written { revision })
        } else {
            Next::Done(WriteOutcome::Lost)
        }
    }
}

/// Whether an entry is still the one that a process wrote or read: no other process has written since.
pub fn is_held(revision: u64, current: u64) -> bool {
    revision == current
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OURS: u8 = 0;

    /// All entries ever stored. The revision of an entry is its position, counted from 1.
    #[derive(Default)]
    struct Bucket {
        stored: Vec<u8>,
        on_their_way: Vec<u64>,
    }

    #[derive(Clone, Copy, Debug)]
    enum Fate {
        Answered,
        AnswerLost,
        /// It may arrive at any later time, or more than once, or never.
        Delayed,
        Lost,
    }

    #[derive(Clone, Copy, Debug)]
    struct Move {
        fate: Fate,
        /// A delayed attempt arrives first.
        lands: bool,
        /// Another process writes first.
        other: bool,
    }

    impl Bucket {
        fn revision(&self) -> u64 {
            self.stored.len() as u64
        }

        fn update(&mut self, over: u64) -> UpdateOutcome {
            if over != self.revision() {
                return UpdateOutcome::WrongRevision;
            }
            self.stored.push(OURS);
            UpdateOutcome::Written {
                revision: self.revision(),
            }
        }

        fn attempt(&mut self, over: u64, step: Move) -> UpdateOutcome {
            if let (true, Some(over)) = (step.lands, self.on_their_way.last().copied()) {
                self.update(over);
            }
            if step.other {
                self.stored.push(OURS + 1);
            }
            match step.fate {
                Fate::Answered => self.update(over),
                Fate::AnswerLost => {
                    self.update(over);
                    UpdateOutcome::Unclear
                }
                Fate::Delayed => {
                    self.on_their_way.push(over);
                    UpdateOutcome::Unclear
                }
                Fate::Lost => UpdateOutcome::Unclear,
            }
        }
    }

    fn moves() -> impl Strategy<Value = Vec<Move>> {
        let fate = prop_oneof![
            2 => Just(Fate::Answered),
            2 => Just(Fate::AnswerLost),
            3 => Just(Fate::Delayed),
            1 => Just(Fate::Lost),
        ];
        let one = (fate, any::<bool>(), prop::bool::weighted(0.2)).prop_map(|(fate, lands, other)| Move {
            fate,
            lands,
            other,
        });
        prop::collection::vec(one, 0..12)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn an_entry_is_stored_once_and_its_outcome_is_true(before in 0usize..3, moves in moves()) {
            let mut bucket = Bucket { stored: vec![OURS + 1; before], ..Bucket::default() };
            let over = bucket.revision();
            let calm = Move { fate: Fate::Answered, lands: false, other: false };
            let mut moves = moves.into_iter().chain(std::iter::repeat(calm));
            let mut write = Write::over(over);
            let mut next = Next::Update;
            let outcome = loop {
                next = match next {
                    Next::Update => write.updated(bucket.attempt(over, moves.next().unwrap_or(calm))),
                    Next::Read => write.read(&OURS, bucket.stored.last(), bucket.revision()),
                    Next::Done(outcome) => break outcome,
                };
            };
            let current = bucket.stored.last() == Some(&OURS);
            let ours = bucket.stored.iter().filter(|entry| **entry == OURS).count();
            match outcome {
                WriteOutcome::Written { revision } => {
                    prop_assert_eq!((revision, ours), (over + 1, 1));
                    prop_assert_eq!(bucket.stored[usize::try_from(revision).unwrap() - 1], OURS);
                }
                WriteOutcome::Lost => prop_assert!(!current),
            }
            // All attempts still on their way arrive now.
            for over in bucket.on_their_way.clone() {
                bucket.update(over);
            }
            prop_assert_eq!(bucket.stored.iter().filter(|entry| **entry == OURS).count(), ours);
        }
    }

    #[test]
    fn a_wrong_revision_is_believed_only_if_no_attempt_is_unclear() {
        let lost = Next::Done(WriteOutcome::Lost);
        let mut write = Write::over(7);
        assert_eq!(write.updated(UpdateOutcome::WrongRevision), lost);

        let mut write = Write::over(7);
        assert_eq!(write.updated(UpdateOutcome::Unclear), Next::Read);
        assert_eq!(write.read(&OURS, None, 7), Next::Update);
        assert_eq!(write.updated(UpdateOutcome::WrongRevision), Next::Read);
        let written = Next::Done(WriteOutcome::Written { revision: 8 });
        assert_eq!(write.read(&OURS, Some(&OURS), 8), written);
        assert_eq!(write.read(&OURS, Some(&(OURS + 1)), 8), lost);
        assert_eq!(write.read(&OURS, None, 8), lost, "it was deleted");
    }
}
