//! Which limits may have been in force, derived from the admin API calls and their times. Pure.

use super::timeline::LOST_MS;

/// A change that an operator requested. If its outcome is unknown, it may have happened at any time after the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    pub account: usize,
    pub usage_type: usize,
    pub limit: i64,
    pub invoked_ms: i64,
    /// `None`: it is unknown whether the change happened.
    pub completed_ms: Option<i64>,
}

/// All changes, in the order of their requests. Changes of one account do not overlap.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    changes: Vec<Change>,
}

impl Limits {
    /// The limit of an account at the start.
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

    /// The highest limit that a gateway may have applied between the two times. `heard_by` returns until when a gateway may
    /// still use a replaced limit. `None`: no limit is known.
    pub fn highest(
        &self,
        of: (usize, usize),
        from_ms: i64,
        to_ms: i64,
        heard_by: impl FnMut(i64) -> i64,
    ) -> Option<i64> {
        self.possible(of, from_ms, to_ms, heard_by).into_iter().max()
    }

    /// The lowest limit that may have been in force on any gateway between the two times.
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
            // A change with an unknown outcome may also happen after its replacement, and then stay in force.
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
