//! What an account with a spend cap pays for: the billed usage types, which need leases while there is a cap.

use schema::{Catalogue, CurrentPlan, Mode, Period, SpendCap, Terms, UsageType};

/// The cap of an account, and what it limits in the running segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spend {
    pub cap: SpendCap,
    /// The running segment: leases are for it, because its usage has its own prices.
    pub segment: Period,
    /// First second of the period that the cap is for.
    pub period_start: i64,
    /// Indexed by [`UsageType::index`]. `None`: the usage type costs nothing, or has a limit.
    rates: Box<[Option<Rate>]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    /// The first units cost nothing, this many.
    pub included: i64,
    pub unit_price_micros: i64,
}

impl Spend {
    /// `terms`: in the catalogue's order.
    pub(super) fn of(cap: SpendCap, catalogue: &Catalogue, current_plan: &CurrentPlan, terms: &[Terms]) -> Self {
        let rate = |(usage_type, terms): (&UsageType, &Terms)| {
            let is_paid = terms.mode != Mode::Limited && terms.unbilled.is_none();
            let unit_price_micros = catalogue.unit_price_micros(current_plan, *usage_type);
            Some(Rate {
                included: terms.limit,
                unit_price_micros: unit_price_micros.filter(|_| is_paid)?,
            })
        };
        Self {
            cap,
            segment: Period {
                start: current_plan.segment,
                end: current_plan.period.end,
            },
            period_start: current_plan.period.start,
            rates: catalogue.usage_types().iter().zip(terms).map(rate).collect(),
        }
    }

    /// `None`: the cap does not limit the usage type.
    pub(crate) fn rate(&self, usage_type: UsageType) -> Option<Rate> {
        self.rates[usage_type.index()]
    }
}
