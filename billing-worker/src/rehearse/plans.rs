//! The plans of a rehearsal: copies of two plans of the operator's catalogue, under names that no other plan has. So the products,
//! prices and meters of the rehearsal are never those of a running service.

use std::fmt::Write;

use anyhow::{Context, Result};
use schema::{Catalogue, Mode, Plan, UsageType};

/// The names of copied plans and usage types begin with it.
const PREFIX: &str = "rehearse_";

/// For a catalogue that bills no usage. A unit above the included ones costs an odd number of half cents, so that rounding shows.
const OWN: &str = r#"
usage_types = ["rehearse_call"]

[[plan]]
id = "free"
name = "Free"
usage.rehearse_call = { limit = 0 }

[[plan]]
id = "rehearse_small"
name = "Rehearsal: small"
prices = { month = 2_900 }
usage.rehearse_call = { limit = 100, mode = "overage", unit_price_micros = 15_000 }

[[plan]]
id = "rehearse_large"
name = "Rehearsal: large"
prices = { month = 29_900 }
usage.rehearse_call = { limit = 1_000, mode = "overage", unit_price_micros = 12_500 }
"#;

pub(super) struct Plans {
    pub catalogue: Catalogue,
    pub small: Plan,
    pub large: Plan,
    /// For people.
    pub source: String,
}

impl Plans {
    /// The two smallest plans that bill usage. A catalogue with fewer of them is replaced by plans of our own.
    pub(super) fn of(catalogue: &Catalogue) -> Result<Self> {
        let bills = |plan: &&Plan| plan.price_cents > 0 && catalogue.billed(plan).next().is_some();
        let mut found = catalogue.plans().iter().filter(bills);
        let (text, source) = match (found.next(), found.next()) {
            (Some(small), Some(large)) => (
                copies(catalogue, [small, large]),
                format!("copies of the plans {} and {}", small.id, large.id),
            ),
            _ => (
                OWN.to_owned(),
                "plans of the rehearsal's own, because fewer than two plans of the catalogue bill usage".to_owned(),
            ),
        };
        let catalogue = Catalogue::parse(&text).context("making the plans of the rehearsal")?;
        let mut paid = catalogue.plans().iter().filter(|plan| plan.price_cents > 0).cloned();
        let small = paid.next().context("the rehearsal has no small plan")?;
        let large = paid.next().context("the rehearsal has no large plan")?;
        drop(paid);
        Ok(Self {
            catalogue,
            small,
            large,
            source,
        })
    }

    /// The usage types that a plan bills by the unit.
    pub(super) fn billed(&self, plan: &Plan) -> Vec<UsageType> {
        self.catalogue.billed(plan).collect()
    }
}

/// A catalogue file with these plans, with the usage types that one of them bills, and without trials.
fn copies(catalogue: &Catalogue, plans: [&Plan; 2]) -> String {
    let is_billed = |usage_type: &UsageType| {
        plans
            .iter()
            .any(|plan| plan.allowance(*usage_type).mode != Mode::Limited)
    };
    let usage_types: Vec<_> = catalogue.usage_types().iter().copied().filter(is_billed).collect();
    let names: Vec<_> = usage_types.iter().map(|name| format!("\"{PREFIX}{name}\"")).collect();
    let mut text = format!("usage_types = [{}]\n", names.join(", "));
    let free = usage_types
        .iter()
        .map(|name| format!("usage.{PREFIX}{name} = {{ limit = 0 }}\n"));
    text.push_str("[[plan]]\nid = \"free\"\nname = \"Free\"\n");
    text.extend(free);
    for plan in plans {
        let (id, price) = (&plan.id, plan.price_cents);
        // Writing to a string does not fail.
        write!(
            text,
            "[[plan]]\nid = \"{PREFIX}{id}\"\nname = \"Rehearsal: {id}\"\nprices = {{ month = {price} }}\n"
        )
        .ok();
        for usage_type in &usage_types {
            let allowance = plan.allowance(*usage_type);
            let (limit, micros) = (allowance.limit, allowance.unit_price_micros);
            let terms = match allowance.mode {
                Mode::Limited => format!("limit = {limit}"),
                Mode::Overage => format!("limit = {limit}, mode = \"overage\", unit_price_micros = {micros}"),
                Mode::Metered => format!("mode = \"metered\", unit_price_micros = {micros}"),
            };
            writeln!(text, "usage.{PREFIX}{usage_type} = {{ {terms} }}").ok();
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = r#"
usage_types = ["call", "export"]
[[plan]]
id = "free"
name = "Free"
usage = { call = { limit = 5 }, export = { limit = 1 } }
[[plan]]
id = "flat"
name = "Flat"
prices = { month = 500 }
usage = { call = { limit = 10 }, export = { limit = 1 } }
[[plan]]
id = "pro"
name = "Pro \"plus\""
prices = { month = 2_900 }
trial_days = 14
usage = { call = { limit = 100 }, export = { limit = 10, mode = "overage", unit_price_micros = 15_000 } }
[[plan]]
id = "max"
name = "Max"
prices = { month = 9_900 }
usage = { call = { limit = 1_000 }, export = { mode = "metered", unit_price_micros = 333 } }
"#;

    #[test]
    fn plans_that_bill_usage_are_copied_with_their_prices_and_without_trials() {
        let plans = Plans::of(&Catalogue::parse(TWO).unwrap()).unwrap();
        assert_eq!(
            (plans.small.id.as_str(), plans.large.id.as_str()),
            ("rehearse_pro", "rehearse_max")
        );
        assert_eq!((plans.small.price_cents, plans.small.trial_days), (2_900, 0));
        let names: Vec<_> = plans.catalogue.usage_types().iter().map(|one| one.name()).collect();
        assert_eq!(
            names,
            ["rehearse_export"],
            "a usage type that no plan bills is left out"
        );
        let export = plans.catalogue.usage_type("rehearse_export").unwrap();
        let terms = |plan: &Plan| {
            let allowance = plan.allowance(export);
            (allowance.mode, allowance.limit, allowance.unit_price_micros)
        };
        assert_eq!(terms(&plans.small), (Mode::Overage, 10, 15_000));
        assert_eq!(terms(&plans.large), (Mode::Metered, 0, 333));
    }

    #[test]
    fn a_catalogue_that_bills_no_usage_is_replaced() {
        let plans = Plans::of(&Catalogue::built_in()).unwrap();
        assert_eq!(plans.small.id, "rehearse_small");
        assert_eq!(plans.billed(&plans.large).len(), 1);
    }
}
