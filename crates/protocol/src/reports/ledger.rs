//! One line of the ledger, and how to handle a count of ClickHouse for it. Pure.
//!
//! Promise: reported + (the open report, once delivered) = counted + carried in − carried out.

use super::period::{Late, Way};

/// The value of a meter event may have up to 15 digits. The rest follows in the next report.
const VALUE_MAX: i64 = 999_999_999_999_999;

/// The known totals of an account's usage type in one period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Line {
    pub reported: i64,
    pub carried_in: i64,
    pub carried_out: i64,
    /// The part of the corrections and carried credits that reports and carries have taken back, or that usage has
    /// outweighed; 0 or negative.
    pub corrected: i64,
    /// Reports written so far.
    pub reports: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Everything is reported.
    Even,
    /// There are units to charge, and it is too early for that.
    Wait,
    /// Units to report.
    Report { from: i64, to: i64, reported_for: i64 },
    /// Too late for this period.
    Carry { units: i64, late: Late },
    /// Fewer units are counted than were reported, by this many (negative), and no correction explains it. Never sent.
    Drift { units: i64 },
}

impl Line {
    /// The units that are not yet reported. Negative: units to take back. `None`: the result does not fit into 64 bits.
    pub fn delta(&self, counted: i64) -> Option<i64> {
        let delta = i128::from(counted) + i128::from(self.carried_in)
            - i128::from(self.carried_out)
            - i128::from(self.reported);
        i64::try_from(delta).ok()
    }

    /// Decides what to do about `counted` units. `credits`: all corrections of the period and credits carried into it, 0 or
    /// negative. Needed only if the delta is negative.
    pub fn decide(&self, counted: i64, credits: i64, way: Way) -> Decision {
        let Some(delta) = self.delta(counted) else {
            return Decision::Drift { units: i64::MIN };
        };
        let unexplained = i128::from(delta) - (i128::from(credits) - i128::from(self.corrected)).min(0);
        if delta == 0 {
            return Decision::Even;
        }
        if delta < 0 && unexplained < 0 {
            return Decision::Drift { units: delta };
        }
        match way {
            Way::Wait => Decision::Wait,
            Way::Carry(late) => Decision::Carry { units: delta, late },
            Way::Report { reported_for } => {
                let value = delta.clamp(-VALUE_MAX, VALUE_MAX);
                match self.reported.checked_add(value) {
                    Some(to) => Decision::Report {
                        from: self.reported,
                        to,
                        reported_for,
                    },
                    None => Decision::Drift { units: i64::MIN },
                }
            }
        }
    }

    /// A report of these units was delivered.
    pub fn deliver(&mut self, units: i64) {
        self.reported = self.reported.saturating_add(units);
        self.corrected = self.corrected.saturating_add(units.min(0));
    }

    /// These units move to another period, or to an invoice item.
    pub fn carry_out(&mut self, units: i64) {
        self.carried_out = self.carried_out.saturating_add(units);
        self.corrected = self.corrected.saturating_add(units.min(0));
    }

    pub fn carry_in(&mut self, units: i64) {
        self.carried_in = self.carried_in.saturating_add(units);
    }

    /// A count with these credits was not below the reported units. So the credits were netted with usage, or taken back
    /// before, and explain no later loss.
    pub fn net(&mut self, credits: i64) {
        self.corrected = self.corrected.min(credits);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: Way = Way::Report { reported_for: 7 };

    fn line(reported: i64, carried_in: i64, carried_out: i64, corrected: i64) -> Line {
        Line {
            reported,
            carried_in,
            carried_out,
            corrected,
            reports: 0,
        }
    }

    #[test]
    fn unreported_units_are_reported_and_late_units_are_carried() {
        let report = |from, to| Decision::Report {
            from,
            to,
            reported_for: 7,
        };
        for (line, counted, credits, expected) in [
            (line(0, 0, 0, 0), 0, 0, Decision::Even),
            (line(0, 0, 0, 0), 10, 0, report(0, 10)),
            (line(10, 0, 0, 0), 12, 0, report(10, 12)),
            (line(10, 5, 0, 0), 12, 0, report(10, 17)),
            (line(12, 0, 3, 0), 15, 0, Decision::Even),
            (line(10, 0, 0, 0), 7, -3, report(10, 7)),
            (line(10, 0, 0, 0), 7, -2, Decision::Drift { units: -3 }),
            // A correction explains a loss once.
            (line(7, 0, 0, -3), 6, -3, Decision::Drift { units: -1 }),
            (line(7, 0, 0, -3), 6, -4, report(7, 6)),
            // A credit that was carried in.
            (line(7, -4, 0, 0), 7, -4, report(7, 3)),
            (
                line(0, 0, 0, 0),
                2_000_000_000_000_000,
                0,
                report(0, 999_999_999_999_999),
            ),
            (
                line(i64::MIN, 0, 0, 0),
                i64::MAX,
                0,
                Decision::Drift { units: i64::MIN },
            ),
        ] {
            assert_eq!(line.decide(counted, credits, REPORT), expected, "{line:?} {counted}");
        }
        let late = Way::Carry(Late::Final);
        for (counted, credits, units) in [(12, 0, 2), (9, -1, -1)] {
            let carry = Decision::Carry {
                units,
                late: Late::Final,
            };
            assert_eq!(line(10, 0, 0, 0).decide(counted, credits, late), carry);
        }
        assert_eq!(line(10, 0, 0, 0).decide(9, 0, late), Decision::Drift { units: -1 });
        assert_eq!(line(0, 0, 0, 0).decide(9, 0, Way::Wait), Decision::Wait);
        assert_eq!(line(0, 0, 0, 0).decide(0, 0, Way::Wait), Decision::Even);
    }
}
