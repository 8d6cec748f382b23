//! Products and prices that the catalogue asks for. Pure.

use schema::{Catalogue, Plan, UsageType};

use crate::stripe::{names, object::subscription::Price};

/// The one currency of the catalogue.
pub const CURRENCY: &str = "usd";

/// A product that the catalogue asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedProduct {
    pub(super) id: String,
    /// As customers read it on invoices.
    pub(super) name: String,
    pub(super) plan: String,
}

/// A price that the catalogue asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedPrice {
    pub lookup_key: String,
    pub plan: String,
    pub terms: Terms,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Terms {
    /// A fixed price a month.
    Monthly { cents: i64 },
    /// The first `included` units of a month are free; each further unit costs `unit_price_micros`.
    Metered {
        usage_type: UsageType,
        included: i64,
        unit_price_micros: i64,
    },
}

/// The plans that Stripe knows: all but Free.
fn paid(catalogue: &Catalogue) -> impl Iterator<Item = &Plan> {
    catalogue.plans().iter().filter(|plan| plan.id != Catalogue::FREE)
}

/// The products that the catalogue asks for: one of each plan, and one of each usage type that it bills by the unit.
pub(super) fn products(catalogue: &Catalogue) -> Vec<WantedProduct> {
    let of_plan = |plan: &Plan| {
        let billed = catalogue.billed(plan).map(|usage_type| WantedProduct {
            id: names::overage_product_id(&plan.id, usage_type),
            name: format!("{}: {}", plan.name, words(usage_type)),
            plan: plan.id.clone(),
        });
        let own = WantedProduct {
            id: names::product_id(&plan.id),
            name: plan.name.clone(),
            plan: plan.id.clone(),
        };
        std::iter::once(own).chain(billed).collect::<Vec<_>>()
    };
    paid(catalogue).flat_map(of_plan).collect()
}

/// The prices that the catalogue asks for.
pub fn wanted(catalogue: &Catalogue) -> Vec<WantedPrice> {
    paid(catalogue).flat_map(|plan| of_plan(catalogue, plan)).collect()
}

/// A plan's own price, then the prices of usage types that it bills by the unit.
pub fn of_plan(catalogue: &Catalogue, plan: &Plan) -> Vec<WantedPrice> {
    let monthly = WantedPrice {
        lookup_key: names::lookup_key(&plan.id),
        plan: plan.id.clone(),
        terms: Terms::Monthly {
            cents: plan.price_cents,
        },
    };
    let metered = catalogue.billed(plan).map(|usage_type| {
        let allowance = plan.allowance(usage_type);
        WantedPrice {
            lookup_key: names::overage_lookup_key(&plan.id, usage_type),
            plan: plan.id.clone(),
            terms: Terms::Metered {
                usage_type,
                included: allowance.limit,
                unit_price_micros: allowance.unit_price_micros,
            },
        }
    });
    std::iter::once(monthly).chain(metered).collect()
}

impl WantedPrice {
    /// Whether a price in Stripe has these terms.
    pub(super) fn is(&self, price: &Price) -> bool {
        price.metadata.get(names::META_TERMS) == Some(&self.terms.short())
    }
}

impl Terms {
    /// Distinguishes terms, in a price's metadata.
    pub(super) fn short(&self) -> String {
        match self {
            Self::Monthly { cents } => format!("{CURRENCY}-{cents}-month"),
            Self::Metered {
                included,
                unit_price_micros,
                ..
            } => {
                format!("{CURRENCY}-{included}-included-{unit_price_micros}-micros")
            }
        }
    }
}

/// `api_call` as people read it: `api call`.
pub(super) fn words(usage_type: UsageType) -> String {
    usage_type.name().replace('_', " ")
}
