//! Which limits may have been in force, by what was asked of the admin API and when. Pure.

use super::timeline::LOST_MS;

/// What an operator asked for; a change whose outcome is not known may have happened at any time after it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    pub account: usize,
    pub usage_type: usize,
    pub limit: i64,
    pub invoked_ms: i64,
    /// `None`: nobody knows whether it happened.
    pub completed_ms: Option<i64>,
}

/// All changes, in the order in which they were asked for; those of one account one after the other.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    changes: Vec<Change>,
}

impl Limits {
    /// The limit that an account begins with.
    pub fn begin(&mut self, account: usize, usage_type: usize, limit: i64) {
        self.changes.push(Change {
            account,
            usage_type,
            limit,
            invoked_ms: i64::MIN,
            completed_ms: Some(i64::MIN),
        });
    }

    pub fn change(&mut self, change: Change) {
        self.changes.push(change);
    }

    /// The highest limit by which a gateway may have admitted at a moment between the two; `heard_by` says until when it may
    /// go on with what was replaced. `None`: none is known.
    pub fn highest(
        &self,
        of: (usize, usize),
        from_ms: i64,
        to_ms: i64,
        heard_by: impl FnMut(i64) -> i64,
    ) -> Option<i64> {
        self.possible(of, from_ms, to_ms, heard_by).into_iter().max()
    }

    /// The lowest limit that may have been in force anywhere between the two.
    pub fn lowest(&self, of: (usize, usize), from_ms: i64, to_ms: i64) -> Option<i64> {
        let heard_by = |completed: i64| completed.saturating_add(LOST_MS);
        self.possible(of, from_ms, to_ms, heard_by).into_iter().min()
    }

    fn possible(
        &self,
        (account, usage_type): (usize, usize),
        from_ms: i64,
        to_ms: i64,
        mut heard_by: impl FnMut(i64) -> i64,
    ) -> Vec<i64> {
        let of = |change: &&Change| change.account == account && change.usage_type == usage_type;
        let mut changes = self.changes.iter().filter(of).peekable();
        let mut limits = Vec::new();
        while let Some(change) = changes.next() {
            if change.invoked_ms > to_ms {
                continue;
            }
            // What may have happened late may also come after its replacement, and so be in force for ever.
            let mut later = changes.clone();
            let replaced = later
                .find_map(|next| next.completed_ms)
                .filter(|_| change.completed_ms.is_some());
            if replaced.is_none_or(|completed| from_ms < heard_by(completed)) {
                limits.push(change.limit);
            }
        }
        limits
    }
}
