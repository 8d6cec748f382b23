//! A billing period for reports to Stripe: the timestamps of its meter events, and whether it takes more reports.

use schema::AccountId;

const MINUTE: i64 = 60;
/// Stripe accepts timestamps of the past 35 days. An hour less leaves time for the event to arrive.
const OLDEST: i64 = 35 * 24 * 3_600 - 3_600;

/// A period whose totals are not frozen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BillingPeriod {
    pub account: AccountId,
    /// Unix seconds, half-open.
    pub start: i64,
    pub end: i64,
    pub customer: String,
    pub subscription: String,
    /// When Stripe finalized its invoice.
    pub final_at: Option<i64>,
}

/// How to handle units that are not reported yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// A meter event with this timestamp.
    Report { reported_for: i64 },
    /// Nothing more can be reported in this period.
    Carry(Late),
}

/// Why a period takes no more reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Late {
    Final,
    TooOld,
}

/// Whole minutes, half-open, that contain the timestamps of one period and of no other. Summaries are requested for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    pub start: i64,
    pub end: i64,
}

impl BillingPeriod {
    pub fn way(&self, now: i64) -> Way {
        let last = self.end - 1;
        if self.final_at.is_some() {
            Way::Carry(Late::Final)
        } else if last < now - OLDEST {
            Way::Carry(Late::TooOld)
        } else {
            // Not in a minute that began before the period, because summaries have whole minutes. The timestamp may be up
            // to a minute ahead; Stripe allows five. One second before now, so that a price change in this very second
            // bills earlier usage at the old prices.
            let first = minute_from(self.start).min(last);
            Way::Report {
                reported_for: (now - 1).clamp(first, last),
            }
        }
    }

    /// The same for a report that already has a timestamp, which never changes.
    pub fn way_of(&self, reported_for: i64, now: i64) -> Way {
        if reported_for < now - OLDEST {
            return Way::Carry(Late::TooOld);
        }
        self.way(now)
    }

    /// The window ends at a whole minute, and the next period's window begins there or later.
    pub fn window(&self) -> Window {
        let (start, end) = (minute_from(self.start), minute_from(self.end));
        Window {
            // For a period within one minute, such as a subscription that was cancelled at once: that minute.
            start: if start < self.end { start } else { end - MINUTE },
            end,
        }
    }
}

impl Late {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Final => "final",
            Self::TooOld => "too_old",
        }
    }
}

/// The first whole minute at or after it.
fn minute_from(at: i64) -> i64 {
    at.div_euclid(MINUTE) * MINUTE + if at.rem_euclid(MINUTE) == 0 { 0 } else { MINUTE }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn period(start: i64, end: i64) -> BillingPeriod {
        BillingPeriod {
            account: AccountId::NIL,
            start,
            end,
            customer: "cus_1".into(),
            subscription: "sub_1".into(),
            final_at: None,
        }
    }

    #[test]
    fn final_and_old_periods_take_no_more() {
        let mut period = period(1_000_000, 3_600_000);
        let end_of_time = period.end - 1 + OLDEST;
        assert_eq!(
            period.way(end_of_time),
            Way::Report {
                reported_for: 3_599_999
            }
        );
        assert_eq!(period.way(end_of_time + 1), Way::Carry(Late::TooOld));
        period.final_at = Some(3_603_600);
        assert_eq!(period.way(3_603_600), Way::Carry(Late::Final));
    }

    #[test]
    fn period_within_a_minute_has_that_minute() {
        let short = period(130, 150);
        assert_eq!(short.way(140), Way::Report { reported_for: 149 });
        assert_eq!(short.window(), Window { start: 120, end: 180 });
    }

    proptest! {
        #[test]
        fn timestamps_lie_in_their_period_and_in_the_window_of_no_other(
            start in 0i64..1_000_000, length in 61i64..10_000_000, next_length in 61i64..10_000_000, at in -60i64..10_000_060,
        ) {
            let (first, next) = (period(start, start + length), period(start + length, start + length + next_length));
            prop_assert!(first.window().end <= next.window().start);
            let now = start + at.max(0);
            for period in [&first, &next] {
                let window = period.window();
                prop_assert!(window.start % 60 == 0 && window.end % 60 == 0 && window.start < window.end);
                if let Way::Report { reported_for } = period.way(now) {
                    prop_assert!(period.start <= reported_for && reported_for < period.end);
                    prop_assert!(window.start <= reported_for && reported_for < window.end);
                    prop_assert!(reported_for <= now.max(period.start) + 60);
                }
            }
        }
    }
}
