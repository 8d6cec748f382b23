//! Whether the spool accepts batches now, and why not: one atomic, which the hot path reads while NATS is unavailable.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

/// The room in the spool of one process.
#[derive(Debug, Default)]
pub struct Room {
    reasons: AtomicU8,
}

/// Why the spool accepts nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reason {
    /// Its bytes are used up.
    Full = 1,
    /// A batch in it has waited too long.
    Old = 2,
    /// The disk failed, or is full.
    Disk = 4,
    /// PostgreSQL has not recorded that the run spools.
    Unregistered = 8,
}

impl Room {
    /// One relaxed load.
    pub fn takes(&self) -> bool {
        self.reasons.load(Relaxed) == 0
    }

    /// Sets or removes a reason.
    pub fn set(&self, reason: Reason, holds: bool) {
        match holds {
            true => self.reasons.fetch_or(reason as u8, Relaxed),
            false => self.reasons.fetch_and(!(reason as u8), Relaxed),
        };
    }

    pub fn has(&self, reason: Reason) -> bool {
        self.reasons.load(Relaxed) & reason as u8 != 0
    }

    /// The reason as text for people. `None`: the spool accepts batches.
    pub fn why_not(&self) -> Option<&'static str> {
        let texts = [
            (Reason::Disk, "the spool's disk failed or is full"),
            (Reason::Full, "the spool is full"),
            (Reason::Old, "a batch in the spool is too old"),
            (Reason::Unregistered, "PostgreSQL is unreachable, too"),
        ];
        texts
            .into_iter()
            .find(|(reason, _)| self.has(*reason))
            .map(|(_, text)| text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_reason_is_enough_to_refuse() {
        let room = Room::default();
        assert!(room.takes() && room.why_not().is_none());
        room.set(Reason::Full, true);
        room.set(Reason::Disk, true);
        room.set(Reason::Full, false);
        assert!(!room.takes());
        assert_eq!(room.why_not(), Some("the spool's disk failed or is full"));
        room.set(Reason::Disk, false);
        assert!(room.takes());
    }
}
