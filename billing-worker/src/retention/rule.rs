//! Decides from which day on an account's rows are kept. Pure.

use schema::{Catalogue, CurrentPlan, Period, period::instant, subscription::Subscription};
use time::{Date, OffsetDateTime, ext::NumericalDuration};

/// Returns the first day whose rows are kept, by the plan of the account at `now`; `None`: all rows are kept, also if the
/// catalogue does not have the plan.
pub(super) fn keep_from(
    catalogue: &Catalogue,
    subscription: Option<&Subscription>,
    open: Option<OffsetDateTime>,
    now: OffsetDateTime,
) -> Option<Date> {
    let current_plan = CurrentPlan::at(subscription, now.unix_timestamp());
    let days = catalogue.retention_days(&current_plan)?;
    let by_plan = now.date().saturating_sub(i64::from(days).days());
    Some(by_plan.min(first_needed(&current_plan, subscription, open)))
}

/// Returns the first day of the oldest period whose rows may still be needed. Only this function decides it: the current period,
/// the one before it, and `open`, the start of the oldest billing period that is not frozen (its corrections are read from the
/// rows).
fn first_needed(current_plan: &CurrentPlan, subscription: Option<&Subscription>, open: Option<OffsetDateTime>) -> Date {
    let before = current_plan.period.start - 1;
    let previous = match subscription {
        Some(subscription) => Period::anchored_month(subscription.anchor, before),
        None => Period::calendar_month(before),
    };
    // From the first day of that month: the account may have had another plan, with periods that began earlier.
    let first = instant(Period::calendar_month(previous.start).start);
    open.map_or(first, |open| open.min(first)).date()
}

#[cfg(test)]
mod tests {
    use schema::{Currency, SubscriptionId, subscription::SubscriptionStatus};
    use time::macros::{date, datetime};

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-23 12:00 UTC);

    fn subscription(plan: &str, start: OffsetDateTime, end: OffsetDateTime) -> Subscription {
        Subscription {
            id: SubscriptionId::new(),
            plan: plan.into(),
            version: None,
            status: SubscriptionStatus::Active,
            period: Period {
                start: start.unix_timestamp(),
                end: end.unix_timestamp(),
            },
            segment_start: None,
            anchor: start.unix_timestamp(),
            ends_at: None,
            then_plan: None,
            then_version: None,
            grace_until: None,
            paid_until: None,
            in_stripe: true,
            currency: Some(Currency::USD),
        }
    }

    #[test]
    fn rows_are_kept_as_long_as_the_current_plan_says() {
        let catalogue = Catalogue::built_in();
        let running = (datetime!(2026-11-10 8:00 UTC), datetime!(2026-12-10 8:00 UTC));
        let pro = subscription("pro", running.0, running.1);
        assert_eq!(
            keep_from(&catalogue, Some(&pro), None, NOW),
            Some(date!(2025 - 11 - 23))
        );
        let enterprise = subscription("enterprise", running.0, running.1);
        assert_eq!(keep_from(&catalogue, Some(&enterprise), None, NOW), None);
        let unknown = subscription("platinum", running.0, running.1);
        assert_eq!(keep_from(&catalogue, Some(&unknown), None, NOW), None);
    }

    #[test]
    fn rows_of_a_billing_period_that_is_not_frozen_are_kept() {
        let catalogue = Catalogue::built_in();
        let open = datetime!(2026-06-10 8:00 UTC);
        assert_eq!(
            keep_from(&catalogue, None, Some(open), NOW),
            Some(date!(2026 - 06 - 10))
        );
        let recent = datetime!(2026-11-10 8:00 UTC);
        assert_eq!(
            keep_from(&catalogue, None, Some(recent), NOW),
            Some(date!(2026 - 10 - 01))
        );
    }

    #[test]
    fn rows_of_the_current_and_the_previous_period_are_kept_whatever_the_plan_says() {
        let catalogue = Catalogue::built_in();
        // 30 days would be the 24th of October, in the middle of the previous period.
        assert_eq!(keep_from(&catalogue, None, None, NOW), Some(date!(2026 - 10 - 01)));
        // On the first day of a month as well.
        let first = datetime!(2026-11-01 0:00 UTC);
        assert_eq!(keep_from(&catalogue, None, None, first), Some(date!(2026 - 10 - 01)));
        assert_eq!(
            keep_from(&catalogue, None, None, datetime!(2026-10-31 23:59:59 UTC)),
            Some(date!(2026 - 09 - 01))
        );
        // A subscription that has just ended: Free now, and its last period began in October.
        let mut ended = subscription("pro", datetime!(2026-10-15 8:00 UTC), datetime!(2026-11-15 8:00 UTC));
        ended.ends_at = Some(ended.period.end);
        let keep = keep_from(&catalogue, Some(&ended), None, NOW).unwrap();
        assert!(keep <= date!(2026 - 10 - 01), "{keep}");
    }
}
