//! The life of one report: when to send it, when to compare it with Stripe's summaries instead, and how to handle an
//! answer. Pure: the sender writes the results to the database before and after each attempt.
//!
//! Promise: Stripe counts a value at most once, whatever it answers and wherever the sender dies. A report is marked
//! delivered only if it was counted.

use std::time::Duration;

use super::{
    outcome::DeliveryOutcome,
    period::{Late, Way},
};

/// Stripe remembers an identifier for at least 24 hours from the first event that had an effect. Four hours less, because
/// clocks differ and an attempt may take a while.
const IDENTIFIER_TRUSTED: i64 = 20 * 3_600;
/// An event may be missing from the summaries for this time.
pub const SUMMARY_LAG: i64 = 3_600;
/// How long a worker has for the reports that it claimed. Attempts wait for the meters' rate limit.
pub const CLAIM: i64 = 300;
const DELAY_FIRST: i64 = 15;
const DELAY_MAX: i64 = 3_600;

/// The part of a report that its life depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub attempts: i32,
    /// When the first attempt began that may have had an effect. `None`: Stripe certainly does not have it.
    pub first_sent_at: Option<i64>,
    pub last_attempt_at: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Send,
    /// Check Stripe's summaries for it. Sending it again might count it twice, or in no invoice.
    Compare,
    /// Wait until this time.
    Wait(i64),
    /// Stripe does not have it, and its period takes no more reports.
    Withdraw(Late),
}

/// The result of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    Delivered,
    Open {
        first_sent_at: Option<i64>,
        next_attempt_at: i64,
        error: Option<String>,
    },
    Parked {
        first_sent_at: Option<i64>,
        error: String,
    },
}

impl Report {
    pub fn next(&self, way: Way, now: i64) -> Next {
        match (self.first_sent_at, way) {
            (None, Way::Report { .. }) => Next::Send,
            (None, Way::Carry(late)) => Next::Withdraw(late),
            // Its units are charged: Stripe must not have them.
            (None, Way::Wait) => Next::Withdraw(Late::Yearly),
            (Some(first), Way::Report { .. }) if now - first < IDENTIFIER_TRUSTED => Next::Send,
            (Some(first), _) => {
                let shown_at = self.last_attempt_at.unwrap_or(first) + SUMMARY_LAG;
                if now < shown_at {
                    Next::Wait(shown_at)
                } else {
                    Next::Compare
                }
            }
        }
    }

    /// Store this before the attempt: if the process dies during it, the outcome is not known.
    pub fn sending(&self, now: i64) -> Self {
        Self {
            attempts: self.attempts.saturating_add(1),
            first_sent_at: self.first_sent_at.or(Some(now)),
            last_attempt_at: Some(now),
        }
    }

    /// The same before a comparison, which has no effect and leaves `last_attempt_at` alone.
    pub fn comparing(&self) -> Self {
        Self {
            attempts: self.attempts.saturating_add(1),
            ..*self
        }
    }

    /// `self`: the report before the attempt.
    pub fn sent(&self, outcome: DeliveryOutcome, now: i64) -> Mark {
        let began = self.sending(now);
        match outcome {
            DeliveryOutcome::Delivered => Mark::Delivered,
            DeliveryOutcome::NotNow { why, after } => Mark::Open {
                first_sent_at: self.first_sent_at,
                next_attempt_at: now + delay(began.attempts, after),
                error: Some(why),
            },
            DeliveryOutcome::Unknown { why } => Mark::Open {
                first_sent_at: began.first_sent_at,
                next_attempt_at: now + delay(began.attempts, None),
                error: Some(why),
            },
            // An earlier attempt may still have had an effect.
            DeliveryOutcome::Refused { why } => Mark::Parked {
                first_sent_at: self.first_sent_at,
                error: why,
            },
        }
    }

    /// Stripe has `recorded` units of the line: `from` without this report, `to` with it.
    pub fn compared(&self, from: i64, to: i64, recorded: i64, now: i64) -> Mark {
        if recorded == to {
            Mark::Delivered
        } else if recorded == from {
            Mark::Open {
                first_sent_at: None,
                next_attempt_at: now,
                error: None,
            }
        } else {
            Mark::Parked {
                first_sent_at: self.first_sent_at,
                error: format!(
                    "Stripe has {recorded} units, which is neither {from} (without this report) nor {to} (with it)"
                ),
            }
        }
    }

    /// The summaries could not be read.
    pub fn not_compared(&self, why: String, now: i64) -> Mark {
        Mark::Open {
            first_sent_at: self.first_sent_at,
            next_attempt_at: now + delay(self.attempts + 1, None),
            error: Some(why),
        }
    }
}

/// Doubles up to an hour, or uses Stripe's delay if that is longer. Never 0, so that one step tries a report once.
fn delay(attempts: i32, after: Option<Duration>) -> i64 {
    let doubled = DELAY_FIRST << (attempts - 1).clamp(0, 8);
    let asked = after.map_or(0, |after| i64::try_from(after.as_secs()).unwrap_or(DELAY_MAX));
    doubled.max(asked).min(DELAY_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: Way = Way::Report { reported_for: 0 };
    const LATE: Way = Way::Carry(Late::Final);

    fn sent(first: i64, last: i64) -> Report {
        Report {
            attempts: 1,
            first_sent_at: Some(first),
            last_attempt_at: Some(last),
        }
    }

    #[test]
    fn identifier_is_trusted_for_twenty_hours_and_then_summaries_are_asked() {
        let hour = 3_600;
        for (report, way, now, expected) in [
            (Report::default(), REPORT, 0, Next::Send),
            (Report::default(), LATE, 0, Next::Withdraw(Late::Final)),
            (sent(0, 0), REPORT, 20 * hour - 1, Next::Send),
            (sent(0, 0), REPORT, 20 * hour, Next::Compare),
            (sent(0, 20 * hour - 1), REPORT, 20 * hour, Next::Wait(21 * hour - 1)),
            (sent(0, 0), LATE, hour - 1, Next::Wait(hour)),
            (sent(0, 0), LATE, hour, Next::Compare),
        ] {
            assert_eq!(report.next(way, now), expected, "{report:?} {way:?} {now}");
        }
    }

    #[test]
    fn attempt_without_effect_does_not_start_the_clock_nor_stop_it() {
        let busy = || DeliveryOutcome::NotNow {
            why: "lock".into(),
            after: None,
        };
        let first = |mark| match mark {
            Mark::Open { first_sent_at, .. } | Mark::Parked { first_sent_at, .. } => first_sent_at,
            Mark::Delivered => panic!("delivered"),
        };
        assert_eq!(first(Report::default().sent(busy(), 5)), None);
        assert_eq!(first(sent(1, 1).sent(busy(), 5)), Some(1));
        assert_eq!(
            first(Report::default().sent(DeliveryOutcome::Unknown { why: "500".into() }, 5)),
            Some(5)
        );
        assert_eq!(
            first(sent(1, 1).sent(DeliveryOutcome::Refused { why: "gone".into() }, 5)),
            Some(1)
        );
    }

    #[test]
    fn comparison_delivers_sends_again_or_parks() {
        let report = sent(0, 0);
        assert_eq!(report.compared(10, 15, 15, 9), Mark::Delivered);
        let again = Mark::Open {
            first_sent_at: None,
            next_attempt_at: 9,
            error: None,
        };
        assert_eq!(report.compared(10, 15, 10, 9), again);
        assert!(matches!(report.compared(10, 15, 12, 9), Mark::Parked { .. }));
    }

    #[test]
    fn delays_double_up_to_an_hour_and_are_at_least_what_stripe_asks() {
        let asked = |seconds| Some(Duration::from_secs(seconds));
        for (attempts, after, expected) in [
            (1, None, 15),
            (2, None, 30),
            (40, None, 3_600),
            (1, asked(90), 90),
            (1, asked(0), 15),
            (1, asked(100_000), 3_600),
        ] {
            assert_eq!(delay(attempts, after), expected);
        }
    }
}
