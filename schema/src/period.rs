//! Billing periods: half-open, `[start, end)`, UTC, whole seconds.

use serde::{Deserialize, Serialize};
use time::{Date, Month, OffsetDateTime, Time, util::days_in_month};

/// `start <= t < end`, in seconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Period {
    pub start: i64,
    pub end: i64,
}

impl Period {
    pub fn contains(&self, at_s: i64) -> bool {
        self.start <= at_s && at_s < self.end
    }

    /// The calendar month (UTC) that contains `at_s`.
    pub fn calendar_month(at_s: i64) -> Self {
        let first = instant(at_s)
            .replace_day(1)
            .expect("every month has a first day")
            .replace_time(Time::MIDNIGHT);
        Self {
            start: first.unix_timestamp(),
            end: add_months(first, 1).unix_timestamp(),
        }
    }

    /// The monthly period that contains `at_s`, for a subscription anchored at `anchor_s`. Boundaries are whole months from the
    /// anchor, on its day of the month, or on the last day of a month that is too short.
    pub fn anchored_month(anchor_s: i64, at_s: i64) -> Self {
        let (anchor, at) = (instant(anchor_s), instant(at_s));
        let boundary = |months: i32| add_months(anchor, months).unix_timestamp();
        let mut months =
            (at.year() - anchor.year()) * 12 + i32::from(u8::from(at.month())) - i32::from(u8::from(anchor.month()));
        // The boundary in the month of `at_s` may be after `at_s`. The previous boundary is never after it.
        if boundary(months) > at_s {
            months -= 1;
        }
        Self {
            start: boundary(months),
            end: boundary(months + 1),
        }
    }
}

/// An instant from seconds since the Unix epoch. A value outside the calendar (years beyond 9999) becomes the epoch.
pub fn instant(at_s: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(at_s).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

fn add_months(at: OffsetDateTime, months: i32) -> OffsetDateTime {
    let index = at.year() * 12 + i32::from(u8::from(at.month())) - 1 + months;
    let (year, month) = (index.div_euclid(12), index.rem_euclid(12) + 1);
    let month = u8::try_from(month).ok().and_then(|month| Month::try_from(month).ok());
    let month = month.expect("1 to 12");
    let day = at.day().min(days_in_month(month, year));
    let date = Date::from_calendar_date(year, month, day).expect("the day is at most the length of the month");
    at.replace_date(date)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use time::macros::datetime;

    fn month(start: OffsetDateTime, end: OffsetDateTime) -> Period {
        Period {
            start: start.unix_timestamp(),
            end: end.unix_timestamp(),
        }
    }

    #[test]
    fn calendar_months_are_half_open_and_cross_the_year() {
        let december = month(datetime!(2026-12-01 0:00 UTC), datetime!(2027-01-01 0:00 UTC));
        assert_eq!(Period::calendar_month(december.start), december);
        assert_eq!(Period::calendar_month(december.end - 1), december);
        assert_eq!(Period::calendar_month(december.end).start, december.end);
    }

    #[test]
    fn an_anchor_on_the_31st_ends_short_months_on_their_last_day() {
        let anchor = datetime!(2027-01-31 10:30 UTC).unix_timestamp();
        let february = month(datetime!(2027-01-31 10:30 UTC), datetime!(2027-02-28 10:30 UTC));
        let march = month(datetime!(2027-02-28 10:30 UTC), datetime!(2027-03-31 10:30 UTC));
        assert_eq!(Period::anchored_month(anchor, anchor), february);
        assert_eq!(Period::anchored_month(anchor, february.end - 1), february);
        assert_eq!(Period::anchored_month(anchor, february.end), march);
    }

    proptest! {
        #[test]
        fn periods_tile_time(anchor in 0i64..4_000_000_000, at in 0i64..4_000_000_000) {
            let period = Period::anchored_month(anchor, at);
            prop_assert!(period.contains(at));
            prop_assert_eq!(Period::anchored_month(anchor, period.end).start, period.end);
            prop_assert_eq!(Period::anchored_month(anchor, period.start - 1).end, period.start);
            let calendar = Period::calendar_month(at);
            prop_assert!(calendar.contains(at));
        }
    }
}
