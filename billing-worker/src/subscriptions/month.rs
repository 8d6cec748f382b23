//! The months of a subscription that is not paid monthly. Limits and included units are for a month, so its period here is a slice: a
//! month of the time that was paid. Pure.

use schema::Period;

/// The slice that contains `at`, or that is next to it. `paid`: the time that was paid for. `months`: how many months that is; 0: no
/// number of months. A trial is one slice.
pub(super) fn slice(paid: Period, anchor: i64, months: i32, is_trial: bool, at: i64) -> Period {
    if months == 1 || is_trial {
        return paid;
    }
    let month = Period::anchored_month(anchor, at.clamp(paid.start, paid.end - 1));
    match months {
        // A month of weeks.
        0 => month,
        _ => Period {
            start: month.start.max(paid.start),
            end: month.end.min(paid.end),
        },
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    fn period(start: time::OffsetDateTime, end: time::OffsetDateTime) -> Period {
        Period {
            start: start.unix_timestamp(),
            end: end.unix_timestamp(),
        }
    }

    #[test]
    fn the_slices_of_a_year_are_its_twelve_months() {
        let year = period(datetime!(2027-01-31 10:00 UTC), datetime!(2028-01-31 10:00 UTC));
        let (mut at, mut slices) = (year.start, Vec::new());
        while at < year.end {
            let slice = slice(year, year.start, 12, false, at);
            assert_eq!(slice.start, at);
            slices.push(slice);
            at = slice.end;
        }
        assert_eq!((slices.len(), at), (12, year.end));
        let february = period(datetime!(2027-01-31 10:00 UTC), datetime!(2027-02-28 10:00 UTC));
        assert_eq!(slices[0], february);
        // Stripe takes a moment to begin the next year.
        assert_eq!(slice(year, year.start, 12, false, year.end + 60), slices[11]);
        assert_eq!(slice(year, year.start, 12, false, year.start - 60), slices[0]);
    }

    #[test]
    fn a_month_and_a_trial_are_one_slice_and_weeks_have_the_limits_of_a_month() {
        let anchor = datetime!(2027-03-10 0:00 UTC).unix_timestamp();
        let trial = period(datetime!(2027-02-24 0:00 UTC), datetime!(2027-03-10 0:00 UTC));
        assert_eq!(slice(trial, anchor, 12, true, trial.start), trial);
        let month = period(datetime!(2027-03-10 0:00 UTC), datetime!(2027-04-10 0:00 UTC));
        assert_eq!(slice(month, anchor, 1, false, month.start), month);
        let week = period(datetime!(2027-03-17 0:00 UTC), datetime!(2027-03-24 0:00 UTC));
        assert_eq!(slice(week, anchor, 0, false, week.start), month);
        // A first part of a month, because the billing day was chosen.
        let quarter = period(datetime!(2027-02-24 0:00 UTC), datetime!(2027-05-10 0:00 UTC));
        let first = period(datetime!(2027-02-24 0:00 UTC), datetime!(2027-03-10 0:00 UTC));
        assert_eq!(slice(quarter, anchor, 3, false, quarter.start), first);
    }
}
