//! A billing period for reports to Stripe: the timestamps of its meter events, and whether it takes more reports. If the usage
//! prices change within a period, each part with one set of prices, a segment, is treated as a period of its own: it has its own
//! meters, and takes reports until the invoice of the whole period is final.

use schema::AccountId;
use uuid::Uuid;

const MINUTE: i64 = 60;
/// Stripe accepts timestamps of the past 35 days. An hour less leaves time for the event to arrive.
const OLDEST: i64 = 35 * 24 * 3_600 - 3_600;

/// A period whose totals are not frozen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BillingPeriod {
    pub account: AccountId,
    /// Unix seconds. Usage is stamped with it.
    pub start: i64,
    /// The earliest timestamp of its meter events: `start`, or when Stripe began to bill its usage.
    pub from: i64,
    /// The end of the period whose invoice bills it (exclusive).
    pub end: i64,
    /// Which of the meters of a usage type has its units, from 0 on. Segments whose times overlap have different ones.
    pub meter_slot: i16,
    pub customer: String,
    pub subscription: String,
    /// The plan whose prices its usage has. `None`: not known.
    pub plan: Option<String>,
    /// The version of the plan. `None`: not known, or the price is not one of this service.
    pub version: Option<Uuid>,
    /// When its invoice became final, or when it was found that all of its usage is stored and can be charged.
    pub final_at: Option<i64>,
    pub billed_by: BilledBy,
}

/// How the units of a period get on an invoice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BilledBy {
    /// They are reported to Stripe, and the subscription's invoice bills them.
    #[default]
    Invoice,
    /// Nothing is reported: after the end of the period the billing worker charges them. The subscription is not paid monthly.
    Charge,
}

/// How to handle units that are not reported yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// A meter event with this timestamp.
    Report { reported_for: i64 },
    /// Later: they are charged after the end of the period.
    Wait,
    /// Nothing more can be reported in this period.
    Carry(Late),
}

/// Why a period takes no more reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Late {
    Final,
    TooOld,
    /// No invoice of the subscription bills the period: its units are charged.
    Yearly,
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
        if self.billed_by == BilledBy::Charge {
            match self.final_at {
                Some(_) => Way::Carry(Late::Yearly),
                None => Way::Wait,
            }
        } else if self.final_at.is_some() {
            Way::Carry(Late::Final)
        } else if last < now - OLDEST {
            Way::Carry(Late::TooOld)
        } else {
            // Not in a minute that began before the period, because summaries have whole minutes. The timestamp may be up
            // to a minute ahead; Stripe allows five. One second before now, so that a price change in this very second
            // bills earlier usage at the old prices.
            let first = minute_from(self.from).min(last);
            Way::Report {
                reported_for: (now - 1).clamp(first, last),
            }
        }
    }

    /// The same for a report that already has a timestamp, which never changes.
    pub fn way_of(&self, reported_for: i64, now: i64) -> Way {
        if self.billed_by == BilledBy::Invoice && reported_for < now - OLDEST {
            return Way::Carry(Late::TooOld);
        }
        self.way(now)
    }

    /// Whether usage of this subscription, plan and version costs here what it did in its own period.
    pub fn has_prices_of(&self, subscription: &str, plan: Option<&str>, version: Option<Uuid>) -> bool {
        let (plans, versions) = (self.plan.as_deref().zip(plan), self.version.zip(version));
        self.subscription == subscription
            && plans.is_none_or(|(ours, theirs)| ours == theirs)
            && versions.is_none_or(|(ours, theirs)| ours == theirs)
    }

    /// It lasted for less than a minute, so its usage may have been reported for the minute after it. No invoice has that.
    pub fn is_brief(&self) -> bool {
        minute_from(self.from) >= self.end
    }

    /// The window ends at a whole minute, and the next period's window begins there or later.
    pub fn window(&self) -> Window {
        let (start, end) = (minute_from(self.from), minute_from(self.end));
        Window {
            // For a period within one minute, such as a subscription that was cancelled at once: that minute.
            start: if start < self.end { start } else { end - MINUTE },
            end,
        }
    }
}

impl BilledBy {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Invoice => "invoice",
            Self::Charge => "charge",
        }
    }

    /// The value of `billing_periods.billed_by`, which has only these two.
    pub fn from_stored(text: &str) -> Self {
        match text {
            "charge" => Self::Charge,
            _ => Self::Invoice,
        }
    }
}

impl Late {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Final => "final",
            Self::TooOld => "too_old",
            Self::Yearly => "yearly",
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
            from: start,
            end,
            meter_slot: 0,
            customer: "cus_1".into(),
            subscription: "sub_1".into(),
            plan: None,
            version: None,
            final_at: None,
            billed_by: BilledBy::Invoice,
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
    fn a_period_without_an_invoice_waits_until_it_can_be_charged() {
        let mut slice = BillingPeriod {
            billed_by: BilledBy::Charge,
            ..period(1_000_000, 3_600_000)
        };
        // However long ago it was: its usage may be charged at the end of the year.
        for now in [1_000_000, 3_600_000, 3_600_000 + 12 * OLDEST] {
            assert_eq!(slice.way(now), Way::Wait, "{now}");
        }
        slice.final_at = Some(3_603_600);
        assert_eq!(slice.way(3_603_600), Way::Carry(Late::Yearly));
        for billed_by in [BilledBy::Invoice, BilledBy::Charge] {
            assert_eq!(BilledBy::from_stored(billed_by.as_str()), billed_by);
        }
    }

    #[test]
    fn period_within_a_minute_has_that_minute() {
        let short = period(130, 150);
        assert_eq!(short.way(140), Way::Report { reported_for: 149 });
        assert_eq!(short.window(), Window { start: 120, end: 180 });
    }

    #[test]
    fn late_usage_keeps_its_prices() {
        let mut next = period(130, 150);
        for (plan, subscription, of, expected) in [
            (Some("pro"), "sub_1", Some("pro"), true),
            (Some("pro"), "sub_1", Some("enterprise"), false),
            (Some("pro"), "sub_2", Some("pro"), false),
            (None, "sub_1", Some("pro"), true),
            (Some("pro"), "sub_1", None, true),
        ] {
            next.plan = plan.map(str::to_owned);
            assert_eq!(
                next.has_prices_of(subscription, of, None),
                expected,
                "{plan:?} {subscription} {of:?}"
            );
        }
        let (first, second) = (Some(Uuid::from_u128(1)), Some(Uuid::from_u128(2)));
        for (version, of, expected) in [(first, first, true), (first, second, false), (None, first, true)] {
            next.version = version;
            assert_eq!(
                next.has_prices_of("sub_1", Some("pro"), of),
                expected,
                "{version:?} {of:?}"
            );
        }
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
