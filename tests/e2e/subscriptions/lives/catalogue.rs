//! Plans whose prices change during a life: as a catalogue, and as the oracle sees them.

use std::collections::BTreeMap;

use schema::Catalogue;

use super::oracle::{Offer, Rate};

/// The numbers that change.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub pro_cents: i64,
    pub pro_call_micros: i64,
    pub enterprise_cents: i64,
}

impl Terms {
    pub(super) const FIRST: Self = Self {
        pro_cents: 2_900,
        pro_call_micros: 15_000,
        enterprise_cents: 29_900,
    };

    pub(super) fn catalogue(self) -> Catalogue {
        let Self {
            pro_cents,
            pro_call_micros,
            enterprise_cents,
        } = self;
        let (pro_year, enterprise_year) = (10 * pro_cents, 10 * enterprise_cents);
        let text = format!(
            r#"
usage_types = ["api_call", "export"]

[[plan]]
id = "free"
name = "Free"
usage.api_call = {{ limit = 100 }}
usage.export = {{ limit = 5 }}

[[plan]]
id = "pro"
name = "Pro"
prices = {{ month = {pro_cents}, year = {pro_year} }}
usage.api_call = {{ limit = 1_000, mode = "overage", unit_price_micros = {pro_call_micros} }}
usage.export = {{ mode = "metered", unit_price_micros = 333_333 }}

[[plan]]
id = "team"
name = "Team"
prices = {{ month = 9900, year = 99000 }}
usage.api_call = {{ limit = 3_000, mode = "overage", unit_price_micros = 20_000 }}
usage.export = {{ limit = 100 }}

[[plan]]
id = "enterprise"
name = "Enterprise"
prices = {{ month = {enterprise_cents}, year = {enterprise_year} }}
usage.api_call = {{ limit = 5_000, mode = "overage", unit_price_micros = 10_000 }}
usage.export = {{ limit = 1_000 }}
"#
        );
        Catalogue::parse(&text).unwrap()
    }

    /// The plans that are sold for so many months at once, from the smallest. A year costs as much as ten months.
    pub(super) fn offers(self, months: i32) -> [Offer; 3] {
        let calls = |included, micros| ("api_call", Rate { included, micros });
        let exports = Rate {
            included: 0,
            micros: 333_333,
        };
        let offer = |plan, cents, rates| Offer {
            plan,
            cents: if months == 12 { 10 * cents } else { cents },
            months,
            rates: BTreeMap::from_iter(rates),
        };
        [
            offer(
                "pro",
                self.pro_cents,
                vec![calls(1_000, self.pro_call_micros), ("export", exports)],
            ),
            offer("team", 9_900, vec![calls(3_000, 20_000)]),
            offer("enterprise", self.enterprise_cents, vec![calls(5_000, 10_000)]),
        ]
    }
}
