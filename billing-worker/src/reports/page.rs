//! The part of the ledger that one draft works on.

use std::collections::{BTreeMap, HashMap, HashSet};

use protocol::reports::{
    identifier::LineId,
    ledger::Line,
    period::{BillingPeriod, Way},
};
use schema::{AccountId, period::instant};
use tracing::{error, info};
use uuid::Uuid;

use super::{count::AccountPeriod, credits::Credits};

/// A line of the ledger as it was read.
#[derive(Clone, Debug)]
pub(super) struct Locked {
    pub line: Line,
    /// Corrections and credits that may explain why it has fewer units than were reported; 0 or negative.
    pub credits: i64,
    pub drift: i64,
    pub changed: bool,
}

/// Whose prices usage has.
#[derive(Clone, Copy)]
pub(super) struct Prices<'a> {
    pub subscription: &'a str,
    /// `None`: not known.
    pub plan: Option<&'a str>,
    /// `None`: not known, or the price is not one of this service.
    pub version: Option<Uuid>,
}

impl<'a> Prices<'a> {
    pub(super) fn of(period: &'a BillingPeriod) -> Self {
        Self {
            subscription: &period.subscription,
            plan: period.plan.as_deref(),
            version: period.version,
        }
    }
}

/// The lines of a page of accounts that this draft decides on, and all their periods.
pub(super) struct Page {
    pub lines: BTreeMap<LineId, Locked>,
    pub periods: HashMap<AccountId, Vec<BillingPeriod>>,
}

impl Page {
    pub(super) fn period(&self, line: &LineId) -> Option<&BillingPeriod> {
        let periods = self.periods.get(&line.account)?;
        periods.iter().find(|period| period.start == line.start)
    }

    /// The line that takes units which arrived too late for `line` with these prices. Usage keeps its prices, so it goes to a
    /// period of the same subscription and version of the plan. `Err`: this draft may not change that line.
    pub(super) fn next(&self, line: &LineId, of: Prices<'_>, now: i64) -> Result<Option<LineId>, ()> {
        let later = self.periods.get(&line.account).into_iter().flatten();
        let next = later
            .filter(|period| period.start > line.start && matches!(period.way(now), Way::Report { .. }))
            .filter(|period| period.has_prices_of(of.subscription, of.plan, of.version))
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

    /// Whether the line takes reports. `Err`: it does, and this draft may not change it.
    pub(super) fn is_open(&self, line: &LineId, now: i64) -> Result<bool, ()> {
        let is_open = self
            .period(line)
            .is_some_and(|period| matches!(period.way(now), Way::Report { .. }));
        match is_open && !self.lines.contains_key(line) {
            true => Err(()),
            false => Ok(is_open),
        }
    }

    /// Keeps the lines that are locked and unchanged since they were read; returns the others.
    pub(super) fn keep_unchanged(&mut self, locked: &BTreeMap<LineId, Locked>) -> Vec<LineId> {
        let mut others = Vec::new();
        self.lines.retain(|id, read| match locked.get(id) {
            Some(locked) if locked.line == read.line => {
                read.drift = locked.drift;
                true
            }
            _ => {
                others.push(id.clone());
                false
            }
        });
        others
    }

    pub(super) fn change(&mut self, line: &LineId, change: impl FnOnce(&mut Line)) {
        if let Some(locked) = self.lines.get_mut(line) {
            change(&mut locked.line);
            locked.changed = true;
        }
    }

    /// Adds units that another line carries out; a credit explains that this line falls.
    pub(super) fn carry_in(&mut self, to: &LineId, units: i64) {
        if let Some(locked) = self.lines.get_mut(to) {
            locked.line.carry_in(units);
            locked.credits = locked.credits.saturating_add(units.min(0));
            locked.changed = true;
        }
    }

    pub(super) fn explain(&mut self, credits: &HashMap<LineId, Credits>) {
        for (id, credits) in credits {
            if let Some(locked) = self.lines.get_mut(id) {
                locked.credits = credits.total();
            }
        }
    }

    /// Periods with lines that have credits which are neither taken back nor netted yet.
    pub(super) fn unsettled(&self, busy: &HashSet<LineId>) -> Vec<AccountPeriod> {
        self.periods_of(busy, |_, locked| locked.credits < locked.line.corrected)
    }

    /// Periods with lines that have fewer units than were reported.
    pub(super) fn below(&self, busy: &HashSet<LineId>, sums: &HashMap<LineId, i64>) -> Vec<AccountPeriod> {
        self.periods_of(busy, |id, locked| {
            let counted = sums.get(id).copied().unwrap_or(0);
            locked.line.delta(counted).is_none_or(|delta| delta < 0)
        })
    }

    fn periods_of(&self, busy: &HashSet<LineId>, which: impl Fn(&LineId, &Locked) -> bool) -> Vec<AccountPeriod> {
        let lines = self.lines.iter().filter(|(id, _)| !busy.contains(*id));
        let mut periods: Vec<_> = lines
            .filter(|(id, locked)| which(id, locked))
            .map(|(id, _)| (id.account, id.start))
            .collect();
        // The lines are in this order already.
        periods.dedup();
        periods
    }

    /// Stores how many units a line lacks compared with the reported units. Returns whether this is a new drift.
    pub(super) fn drifted(&mut self, id: &LineId, drift: i64) -> bool {
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
            "ClickHouse has fewer units than were reported to Stripe, and no correction explains it: nothing is sent"
        );
        true
    }
}
