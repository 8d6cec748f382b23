//! The part of the ledger that one draft holds.

use std::collections::{BTreeMap, HashMap};

use schema::{AccountId, period::instant};
use tracing::{error, info};

use crate::reports::{
    identifier::LineId,
    ledger::Line,
    period::{BillingPeriod, Way},
};

/// A locked line of the ledger.
#[derive(Clone, Debug)]
pub(in crate::reports) struct Locked {
    pub line: Line,
    pub drift: i64,
    pub changed: bool,
}

/// The locked lines of a page of accounts, and all their periods.
pub(in crate::reports) struct Page {
    pub lines: BTreeMap<LineId, Locked>,
    pub periods: HashMap<AccountId, Vec<BillingPeriod>>,
}

impl Page {
    pub fn period(&self, line: &LineId) -> Option<&BillingPeriod> {
        let periods = self.periods.get(&line.account)?;
        periods.iter().find(|period| period.start == line.start)
    }

    /// The line that takes what came too late for `line`. `Err`: it is not ours to change now.
    pub fn next(&self, line: &LineId, now: i64) -> Result<Option<LineId>, ()> {
        let later = self.periods.get(&line.account).into_iter().flatten();
        let next = later
            .filter(|period| period.start > line.start && matches!(period.way(now), Way::Report { .. }))
            .min_by_key(|period| period.start);
        let Some(period) = next else { return Ok(None) };
        let next = LineId {
            start: period.start,
            ..line.clone()
        };
        if self.lines.contains_key(&next) {
            Ok(Some(next))
        } else {
            Err(())
        }
    }

    pub fn change(&mut self, line: &LineId, change: impl FnOnce(&mut Line)) {
        if let Some(locked) = self.lines.get_mut(line) {
            change(&mut locked.line);
            locked.changed = true;
        }
    }

    /// Notes how far a line lies below what was told; tells whether that is news of a drift.
    pub fn drifted(&mut self, id: &LineId, drift: i64) -> bool {
        let Some(locked) = self.lines.get_mut(id) else {
            return false;
        };
        if locked.drift == drift {
            return false;
        }
        (locked.drift, locked.changed) = (drift, true);
        let (account, start) = (id.account, instant(id.start));
        if drift == 0 {
            info!(account.id = %account, usage_type = id.usage_type, period.start = %start, "the drift is gone");
            return false;
        }
        error!(
            account.id = %account, usage_type = id.usage_type, period.start = %start, units = drift,
            "fewer units in ClickHouse than Stripe was told, and no correction explains it: nothing is sent"
        );
        true
    }
}
