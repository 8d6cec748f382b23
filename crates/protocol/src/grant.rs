//! How many units a counter asks for, and how many the pool grants.
//!
//! # Promises
//! - A grant never exceeds the limit: granted + units <= limit ([`Pool::grant`]). The conditional update in PostgreSQL
//!   repeats this condition.
//! - A request gets at least its cost, or nothing. Near the limit it gets exactly its cost.
//! - No gateway takes more than its fair half of the remaining units, unless one request costs more.
//!
//! Only an active run is granted units ([`crate::run::RunState::is_active`]). The model `lease_lane_fence` checks the property
//! "no request is admitted past the limit" for any number of units.

use std::time::Duration;

use crate::lease::UNITS_MAX;

/// A lease lasts about this long. So a counter asks PostgreSQL about twice in this time, at any request rate.
const LASTS: Duration = Duration::from_secs(2);
/// The first lease of a counter, and the smallest, covers this many requests of the current cost.
const FIRST_REQUESTS: i64 = 16;

/// One account's usage type in one period, as PostgreSQL last reported it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    pub limit: i64,
    /// Spent, or held by gateways.
    pub granted: i64,
}

/// How fast a counter spent since its last grant.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The units of that grant.
    pub granted: i64,
    pub spent: i64,
    pub elapsed: Duration,
}

impl Pool {
    /// Takes `units` for a lease: all of them, or none if the limit does not allow it.
    pub fn grant(&mut self, units: i64) -> bool {
        let granted = self.granted.checked_add(units).filter(|granted| *granted <= self.limit);
        if let Some(granted) = granted {
            self.granted = granted;
        }
        granted.is_some()
    }

    /// Units that nobody holds. None while more is granted than a lowered limit allows.
    pub fn remaining(&self) -> i64 {
        self.limit.saturating_sub(self.granted).max(0)
    }
}

/// Units to ask for: enough for [`LASTS`] at this pace. At most four times and at least half of the last grant, so that one
/// odd moment does not empty a pool. Never less than a few requests of `cost`.
pub fn wanted_units(pace: Option<Pace>, cost: i64) -> i64 {
    let floor = cost.saturating_mul(FIRST_REQUESTS);
    let by_pace = pace.map_or(0, |pace| {
        let spent = u128::from(pace.spent.max(0).unsigned_abs());
        let at_this_pace = spent * LASTS.as_millis() / pace.elapsed.as_millis().clamp(1, 1 << 40);
        let (least, most) = (pace.granted / 2, pace.granted.saturating_mul(4));
        i64::try_from(at_this_pace).unwrap_or(i64::MAX).clamp(least, most)
    });
    by_pace.max(floor).clamp(1, UNITS_MAX)
}

/// Units to grant to a request out of `remaining`: 0, or at least `needed`. Otherwise no more than this gateway's fair half of
/// the rest, so that one gateway does not hold the last units while the others refuse.
pub fn grant_units(remaining: i64, needed: i64, wanted: i64, live_gateways: i64) -> i64 {
    if needed > remaining || needed > UNITS_MAX {
        return 0;
    }
    wanted
        .min(fair_half(remaining, live_gateways))
        .max(needed)
        .min(UNITS_MAX)
}

/// Units to grant to a renewal, for which no request waits: 0, or at least `needed`, and never more than the fair half. The
/// last units are left to requests. If gateways took them in advance, they would recall them from each other without end.
pub fn renewal_units(remaining: i64, needed: i64, wanted: i64, live_gateways: i64) -> i64 {
    let units = wanted.min(fair_half(remaining, live_gateways)).min(UNITS_MAX);
    if units < needed { 0 } else { units }
}

fn fair_half(remaining: i64, live_gateways: i64) -> i64 {
    remaining / live_gateways.max(1).saturating_mul(2)
}

/// A lease is renewed when this many units, or fewer, are left.
pub fn renew_at(units: i64) -> i64 {
    units / 2
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn grants_shrink_to_exactly_the_cost_near_the_limit() {
        for (remaining, needed, wanted, gateways, granted) in [
            (1_000, 1, 16, 1, 16),
            (100, 1, 1_000, 1, 50),
            (100, 1, 1_000, 4, 12),
            (3, 1, 16, 1, 1),
            (1, 1, 16, 4, 1),
            (10, 10, 160, 3, 10),
            (9, 10, 160, 1, 0),
            (0, 1, 16, 1, 0),
            (i64::MAX, 1, i64::MAX, 1, UNITS_MAX),
            (i64::MAX, i64::MAX, i64::MAX, 1, 0),
        ] {
            assert_eq!(
                grant_units(remaining, needed, wanted, gateways),
                granted,
                "{remaining} remain, {needed} needed, {wanted} wanted, {gateways} gateways"
            );
        }
    }

    #[test]
    fn a_counter_grows_fourfold_until_a_lease_lasts_two_seconds_and_falls_by_half() {
        let pace = |granted, spent, ms| {
            Some(Pace {
                granted,
                spent,
                elapsed: Duration::from_millis(ms),
            })
        };
        for (pace, cost, wanted) in [
            (None, 1, 16),
            (None, 100, 1_600),
            (pace(16, 16, 1), 1, 64),
            (pace(1_000, 1_000, 1_000), 1, 2_000),
            (pace(1_000, 100, 1_000), 1, 500),
            (pace(1_000, 0, 60_000), 1, 500),
            (pace(10, 1, 60_000), 1, 16),
            (pace(UNITS_MAX, UNITS_MAX, 0), 1, UNITS_MAX),
            (None, i64::MAX, UNITS_MAX),
        ] {
            assert_eq!(wanted_units(pace, cost), wanted, "{pace:?}, cost {cost}");
        }
    }

    #[test]
    fn a_cold_burst_of_ten_thousand_requests_takes_six_leases() {
        let (mut served, mut leases, mut pace) = (0, 0, None);
        while served < 10_000 {
            let granted = grant_units(100_000 - served, 1, wanted_units(pace, 1), 4);
            served += granted;
            leases += 1;
            pace = Some(Pace {
                granted,
                spent: granted,
                elapsed: Duration::from_millis(5),
            });
        }
        assert_eq!(leases, 6);
    }

    proptest! {
        #[test]
        fn a_grant_covers_the_need_within_what_remains_or_is_nothing(
            remaining in 0i64..=i64::MAX,
            needed in 1i64..=i64::MAX,
            wanted in 1i64..=UNITS_MAX,
            gateways in 0i64..1_000,
        ) {
            let granted = grant_units(remaining, needed, wanted, gateways);
            if granted == 0 {
                prop_assert!(needed > remaining || needed > UNITS_MAX);
            } else {
                prop_assert!((needed..=remaining).contains(&granted) && granted <= UNITS_MAX);
                prop_assert!(granted == needed || granted <= wanted);
                prop_assert!(granted == needed || granted <= remaining / (2 * gateways.max(1)));
            }
        }

        #[test]
        fn a_renewal_gets_at_most_the_fair_half_and_at_least_its_need_or_nothing(
            remaining in 0i64..=i64::MAX,
            needed in 1i64..=1_000,
            wanted in 1_000i64..=UNITS_MAX,
            gateways in 0i64..1_000,
        ) {
            let granted = renewal_units(remaining, needed, wanted, gateways);
            let fair = remaining / (2 * gateways.max(1));
            prop_assert_eq!(granted == 0, fair < needed);
            prop_assert!(granted == 0 || granted >= needed && granted <= fair);
        }

        #[test]
        fn at_any_pace_a_counter_asks_for_units_that_a_lease_can_hold(
            granted in 0i64..=UNITS_MAX,
            spent in any::<i64>(),
            ms in 0u64..=u64::MAX,
            cost in 1i64..=i64::MAX,
        ) {
            let wanted = wanted_units(Some(Pace { granted, spent, elapsed: Duration::from_millis(ms) }), cost);
            prop_assert!((1..=UNITS_MAX).contains(&wanted));
        }

        #[test]
        fn one_gateway_alone_can_take_everything_to_the_last_unit(limit in 1i64..100_000, cost in 1i64..50) {
            let mut pool = Pool { limit, granted: 0 };
            while pool.remaining() >= cost {
                let granted = grant_units(pool.remaining(), cost, wanted_units(None, cost), 1);
                prop_assert!(granted >= cost);
                prop_assert!(pool.grant(granted));
            }
            prop_assert!(pool.granted <= limit && limit - pool.granted < cost);
        }
    }
}
