use super::*;
use time::{OffsetDateTime, macros::datetime};

fn pro() -> Subscription {
    let (start, end) = (datetime!(2026-11-10 0:00 UTC), datetime!(2026-12-10 0:00 UTC));
    Subscription {
        id: SubscriptionId::new(),
        plan: "pro".into(),
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
fn without_a_subscription_the_plan_is_free_by_calendar_month() {
    let now = datetime!(2026-11-23 12:00 UTC).unix_timestamp();
    let current_plan = CurrentPlan::at(None, now);
    assert_eq!(
        (current_plan.name.as_str(), current_plan.period),
        ("free", Period::calendar_month(now))
    );
    for status in [SubscriptionStatus::Canceled, SubscriptionStatus::Incomplete] {
        assert_eq!(
            CurrentPlan::at(Some(&Subscription { status, ..pro() }), now),
            current_plan
        );
    }
}

#[test]
fn the_next_period_is_rolled_forward_until_its_webhook_arrives() {
    let pro = pro();
    let current_plan = CurrentPlan::at(Some(&pro), pro.period.end);
    assert_eq!(current_plan.name, "pro");
    assert_eq!(current_plan.period.start, pro.period.end);
}

#[test]
fn a_subscription_due_to_end_is_not_rolled_forward() {
    let end = pro().period.end;
    let due = Subscription {
        ends_at: Some(end),
        ..pro()
    };
    assert_eq!(CurrentPlan::at(Some(&due), end - 1).name, "pro");
    assert_eq!(CurrentPlan::at(Some(&due), end - 1).valid_until, end);
    assert_eq!(CurrentPlan::at(Some(&due), end).name, "free");
    let scheduled = Subscription {
        then_plan: Some("enterprise".into()),
        ..due
    };
    let current_plan = CurrentPlan::at(Some(&scheduled), end);
    assert_eq!(
        (current_plan.name.as_str(), current_plan.period.start),
        ("enterprise", end)
    );
}

#[test]
fn the_plan_of_a_period_does_not_depend_on_the_clock_unless_the_subscription_ends_in_it() {
    let period = |start: OffsetDateTime, end: OffsetDateTime| Period {
        start: start.unix_timestamp(),
        end: end.unix_timestamp(),
    };
    let (october, november) = (
        period(datetime!(2026-10-01 0:00 UTC), datetime!(2026-11-01 0:00 UTC)),
        period(datetime!(2026-11-01 0:00 UTC), datetime!(2026-12-01 0:00 UTC)),
    );
    let (last, next) = (
        period(datetime!(2026-10-10 0:00 UTC), datetime!(2026-11-10 0:00 UTC)),
        period(datetime!(2026-12-10 0:00 UTC), datetime!(2027-01-10 0:00 UTC)),
    );
    let running = pro().period;
    let canceled = Subscription {
        ends_at: Some(running.start + 100),
        ..pro()
    };
    let scheduled = Subscription {
        ends_at: Some(running.end),
        then_plan: Some("enterprise".into()),
        ..pro()
    };
    for (subscription, of, expected) in [
        (None, october, Some("free")),
        (None, november, Some("free")),
        (None, running, None),
        (Some(&pro()), last, Some("pro")),
        (Some(&pro()), running, Some("pro")),
        (Some(&pro()), next, Some("pro")),
        (Some(&pro()), november, None),
        // Free follows within November, whose pool is from before the subscription.
        (Some(&canceled), november, Some("free")),
        (Some(&canceled), october, None),
        (Some(&canceled), running, Some("pro")),
        (Some(&scheduled), running, Some("pro")),
        (Some(&scheduled), next, Some("enterprise")),
    ] {
        for now in [
            0,
            of.start - 30,
            of.start,
            of.end - 1,
            of.end + 30,
            running.start,
            9_000_000_000,
        ] {
            let plan = CurrentPlan::in_period(subscription, of, now);
            assert_eq!(
                plan.as_ref().map(|plan| plan.name.as_str()),
                expected,
                "{of:?} at {now}"
            );
            assert!(plan.is_none_or(|plan| plan.period.start == of.start));
        }
    }
    // Its periods are calendar months, so Free continues in the same pool.
    let ends_at = november.start + 1_000;
    let of_month = Subscription {
        period: november,
        anchor: november.start,
        ends_at: Some(ends_at),
        ..pro()
    };
    for (now, expected) in [(ends_at - 1, "pro"), (ends_at, "free"), (november.end + 30, "free")] {
        let plan = CurrentPlan::in_period(Some(&of_month), november, now);
        assert_eq!(plan.map(|plan| plan.name).as_deref(), Some(expected), "{now}");
    }
}

#[test]
fn a_segment_ends_with_its_period_and_limits_keep_the_period() {
    let (start, end) = (pro().period.start, pro().period.end);
    let upgraded = Subscription {
        segment_start: Some(start + 100),
        ..pro()
    };
    let scheduled = Subscription {
        ends_at: Some(end),
        then_plan: Some("enterprise".into()),
        ..upgraded.clone()
    };
    for (subscription, now, expected) in [
        (&pro(), start + 100, (start, start)),
        (&upgraded, start + 100, (start, start + 100)),
        (&upgraded, end - 1, (start, start + 100)),
        (&upgraded, end, (end, end)),
        (&scheduled, end, (end, end)),
    ] {
        let current_plan = CurrentPlan::at(Some(subscription), now);
        assert_eq!(
            (current_plan.period.start, current_plan.segment),
            expected,
            "{}",
            now - end
        );
    }
}

#[test]
fn a_subscription_that_owes_something_works_until_its_grace_period_ends() {
    let grace = pro().period.start + 100;
    for status in [
        SubscriptionStatus::Active,
        SubscriptionStatus::PastDue,
        SubscriptionStatus::Unpaid,
    ] {
        let owes = Subscription {
            status,
            grace_until: Some(grace),
            ..pro()
        };
        let at = |now| CurrentPlan::at(Some(&owes), now);
        assert_eq!(at(grace - 1).entitlement, Entitlement::Granted);
        assert_eq!(at(grace - 1).valid_until, grace);
        assert_eq!(at(grace).entitlement, Entitlement::PaymentRequired);
        assert!(at(grace).valid_until > grace);
        // All is paid or void, and Stripe's status has not changed.
        let owes_nothing = Subscription {
            grace_until: None,
            ..owes
        };
        let current_plan = CurrentPlan::at(Some(&owes_nothing), grace);
        assert_eq!(current_plan.entitlement, Entitlement::Granted, "{status:?}");
    }
    let paused = Subscription {
        status: SubscriptionStatus::Paused,
        ..pro()
    };
    let current_plan = CurrentPlan::at(Some(&paused), grace);
    assert_eq!(current_plan.entitlement, Entitlement::PaymentRequired);
}

#[test]
fn a_subscription_that_is_not_collected_works_until_its_paid_time_ends() {
    let end = pro().period.end;
    for paid_until in [end - 100, end, end + 100] {
        let paused = Subscription {
            paid_until: Some(paid_until),
            ..pro()
        };
        let at = |now| CurrentPlan::at(Some(&paused), now);
        assert_eq!(at(paid_until - 1).entitlement, Entitlement::Granted);
        assert_eq!(at(paid_until - 1).valid_until, paid_until);
        assert_eq!(at(paid_until).entitlement, Entitlement::PaymentRequired);
        assert!(at(paid_until).valid_until > paid_until);
    }
}

#[test]
fn only_a_subscription_in_stripe_that_is_not_a_trial_bills_usage() {
    let unbilled = |subscription: &Subscription, now: i64| CurrentPlan::at(Some(subscription), now).unbilled;
    let (start, end) = (pro().period.start, pro().period.end);
    assert_eq!(unbilled(&pro(), start), None);
    let assigned = Subscription {
        in_stripe: false,
        ..pro()
    };
    assert_eq!(unbilled(&assigned, start), Some(Unbilled::NoSubscription));
    let trial = Subscription {
        status: SubscriptionStatus::Trialing,
        ..pro()
    };
    let scheduled = Subscription {
        ends_at: Some(end),
        then_plan: Some("enterprise".into()),
        ..trial.clone()
    };
    for now in [start, end - 1, end, end + 1_000] {
        assert_eq!(unbilled(&trial, now), Some(Unbilled::Trial), "{}", now - end);
        assert_eq!(unbilled(&scheduled, now), Some(Unbilled::Trial), "{}", now - end);
    }
    assert_eq!(CurrentPlan::at(None, start).unbilled, Some(Unbilled::NoSubscription));
}

#[test]
fn every_status_survives_storage() {
    for status in SubscriptionStatus::ALL {
        assert_eq!(SubscriptionStatus::from_stored(status.as_str()), Some(status));
    }
}
