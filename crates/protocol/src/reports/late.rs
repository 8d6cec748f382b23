//! Where units go that arrived after their period's invoice was final. Pure.
//!
//! ```text
//!                     ┌ a period of the subscription follows ─> NextPeriod
//! next_period ────────┤
//!                     └ none follows ─> Wait ─ after `charge_after` ─> Charge
//! credit_or_charge ───> Charge
//! negative units ─────> Credit, whatever the policy
//! ```

/// `LATE_USAGE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    NextPeriod,
    CreditOrCharge,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// They are reported in the period that follows.
    NextPeriod,
    /// No period follows yet. Its event may still be on its way.
    Wait,
    /// They become an invoice item.
    Charge,
    /// They are returned at the price that was paid for them.
    Credit,
}

/// `has_next`: a period follows that takes reports. `waited_s`: seconds since the units were found to be late.
pub fn place(units: i64, policy: Policy, has_next: bool, waited_s: i64, charge_after_s: i64) -> Place {
    match policy {
        _ if units < 0 => Place::Credit,
        Policy::CreditOrCharge => Place::Charge,
        Policy::NextPeriod if has_next => Place::NextPeriod,
        Policy::NextPeriod if waited_s >= charge_after_s => Place::Charge,
        Policy::NextPeriod => Place::Wait,
    }
}

impl Place {
    /// The value of `meter_carries.policy`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NextPeriod | Self::Wait => "next_period",
            Self::Charge => "charge",
            Self::Credit => "credit",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600;

    #[test]
    fn late_units_go_to_the_next_period_or_are_charged() {
        use Place::{Charge, Credit, NextPeriod, Wait};
        use Policy::CreditOrCharge;
        for (units, policy, has_next, waited_s, expected) in [
            (5, Policy::NextPeriod, true, 0, NextPeriod),
            // In the next period it could vanish below the included units.
            (-5, Policy::NextPeriod, true, 0, Credit),
            // The period that follows is found late.
            (5, Policy::NextPeriod, true, 2 * HOUR, NextPeriod),
            (5, Policy::NextPeriod, false, 0, Wait),
            (5, Policy::NextPeriod, false, HOUR - 1, Wait),
            (5, Policy::NextPeriod, false, HOUR, Charge),
            (5, Policy::NextPeriod, false, 90 * 24 * HOUR, Charge),
            // The clock was set back.
            (5, Policy::NextPeriod, false, -10, Wait),
            (-5, Policy::NextPeriod, false, 0, Credit),
            (5, CreditOrCharge, true, 0, Charge),
            (5, CreditOrCharge, false, 0, Charge),
            (-5, CreditOrCharge, true, 0, Credit),
            (-5, CreditOrCharge, false, 2 * HOUR, Credit),
        ] {
            let placed = place(units, policy, has_next, waited_s, HOUR);
            assert_eq!(placed, expected, "{units} {policy:?} {has_next} {waited_s}");
        }
    }

    #[test]
    fn late_usage_never_waits_for_longer_than_it_may() {
        for policy in [Policy::NextPeriod, Policy::CreditOrCharge] {
            for has_next in [true, false] {
                for units in [i64::MIN, -1, 1, i64::MAX] {
                    assert_ne!(place(units, policy, has_next, HOUR, HOUR), Place::Wait);
                }
            }
        }
    }
}
