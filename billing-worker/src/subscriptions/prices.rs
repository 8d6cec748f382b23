//! The prices of a plan in Stripe, found by lookup key.

use schema::{Catalogue, Plan};

use crate::{
    error::Error,
    stripe::{
        catalogue::{self, WantedPrice},
        names,
    },
    subscriptions::billing::Billing,
};

/// The prices of a subscription to a plan.
#[derive(Clone, Debug)]
pub struct PlanPrices {
    /// The price of the plan itself.
    pub plan: String,
    /// Usage type and price of all usage that it bills by the unit.
    pub metered: Vec<(String, String)>,
}

/// A plan that customers can subscribe to.
pub fn for_sale<'a>(billing: &'a Billing, plan: &str) -> Result<&'a Plan, Error> {
    let plan = billing.admin.plan(plan)?;
    if plan.id == Catalogue::FREE {
        return Err(Error::NotForSale {
            plan: plan.id.clone(),
            instead: "every account without a subscription has it; POST /billing/cancel returns to it",
        });
    }
    if !plan.listed {
        return Err(Error::NotForSale {
            plan: plan.id.clone(),
            instead: "only the operator gives it: ask them",
        });
    }
    Ok(plan)
}

/// Reads them from Stripe. Fails with the lookup keys that Stripe lacks.
pub async fn of_plan(billing: &Billing, plan: &Plan) -> Result<PlanPrices, Error> {
    let wanted: Vec<WantedPrice> = catalogue::of_plan(&billing.admin.catalogue, plan);
    let keys: Vec<String> = wanted.into_iter().map(|wanted| wanted.lookup_key).collect();
    let mut found = catalogue::prices(billing.stripe()?, &keys).await?;
    let missing: Vec<&str> = keys
        .iter()
        .map(String::as_str)
        .filter(|key| !found.contains_key(*key))
        .collect();
    if !missing.is_empty() {
        return Err(Error::PricesMissing {
            lookup_keys: missing.join(", "),
        });
    }
    let mut take = |key: &str| found.remove(key).map(|price| price.id).unwrap_or_default();
    let own = take(&names::lookup_key(&plan.id));
    let billed = billing.admin.catalogue.billed(plan);
    Ok(PlanPrices {
        plan: own,
        metered: billed
            .map(|usage_type| {
                let key = names::overage_lookup_key(&plan.id, usage_type);
                (usage_type.name().to_owned(), take(&key))
            })
            .collect(),
    })
}

impl PlanPrices {
    /// The plan's own first.
    pub fn ids(&self) -> Vec<String> {
        let metered = self.metered.iter().map(|(_, price)| price);
        std::iter::once(&self.plan).chain(metered).cloned().collect()
    }
}
