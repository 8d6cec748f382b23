//! Billing periods. The n-th one is counted from the anchor, so a short month moves one date and not all later ones.

use time::{Date, Month, OffsetDateTime};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interval {
    Day,
    Week,
    Month,
    Year,
}

impl Interval {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "day" => Self::Day,
            "week" => Self::Week,
            "month" => Self::Month,
            "year" => Self::Year,
            _ => return None,
        })
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Year => "year",
        }
    }
}

/// The first end of a period after `after`. A period has `count` intervals, and one period begins at `anchor`.
pub(crate) fn period_end(anchor: i64, interval: Interval, count: i64, after: i64) -> i64 {
    // No period is longer than this, so the estimate is never too high.
    let longest = count.max(1)
        * match interval {
            Interval::Day => 86_400,
            Interval::Week => 7 * 86_400,
            Interval::Month => 31 * 86_400,
            Interval::Year => 366 * 86_400,
        };
    let mut n = (after - anchor).div_euclid(longest) - 1;
    loop {
        let end = nth(anchor, interval, count.max(1), n);
        if end > after {
            return end;
        }
        n += 1;
    }
}

/// `anchor` plus n × `count` intervals, on the anchor's day of the month or on the month's last day.
pub(crate) fn nth(anchor: i64, interval: Interval, count: i64, n: i64) -> i64 {
    let months = match interval {
        Interval::Day => return anchor + n * count * 86_400,
        Interval::Week => return anchor + n * count * 7 * 86_400,
        Interval::Month => n * count,
        Interval::Year => n * count * 12,
    };
    let Ok(start) = OffsetDateTime::from_unix_timestamp(anchor) else {
        return anchor;
    };
    let month = i64::from(start.year()) * 12 + i64::from(u8::from(start.month())) - 1 + months;
    let (Ok(year), Ok(zero_based)) = (i32::try_from(month.div_euclid(12)), u8::try_from(month.rem_euclid(12))) else {
        return anchor;
    };
    let Ok(month) = Month::try_from(zero_based + 1) else {
        return anchor;
    };
    let day = start.day().min(month.length(year));
    let date = Date::from_calendar_date(year, month, day).unwrap_or(start.date());
    OffsetDateTime::new_utc(date, start.time()).unix_timestamp()
}

/// `24 Nov 2026`
pub(crate) fn show(at: i64) -> String {
    let Ok(at) = OffsetDateTime::from_unix_timestamp(at) else {
        return at.to_string();
    };
    let month: String = at.month().to_string().chars().take(3).collect();
    format!("{} {month} {}", at.day(), at.year())
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn short_months_do_not_move_the_anchor() {
        let anchor = datetime!(2026-01-31 10:00 UTC).unix_timestamp();
        let february = period_end(anchor, Interval::Month, 1, anchor);
        let march = period_end(anchor, Interval::Month, 1, february);
        assert_eq!(february, datetime!(2026-02-28 10:00 UTC).unix_timestamp());
        assert_eq!(march, datetime!(2026-03-31 10:00 UTC).unix_timestamp());
    }

    #[test]
    fn end_is_the_first_one_after() {
        let anchor = datetime!(2024-02-29 00:00 UTC).unix_timestamp();
        for interval in [Interval::Day, Interval::Week, Interval::Month, Interval::Year] {
            for after in (0..2_000).map(|n| anchor + n * 86_400 + n) {
                let end = period_end(anchor, interval, 1, after);
                let first = (0..3_000).map(|n| nth(anchor, interval, 1, n)).find(|end| *end > after);
                assert_eq!(Some(end), first);
            }
        }
    }
}
