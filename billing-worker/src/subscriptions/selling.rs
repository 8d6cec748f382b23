//! Brings Stripe in line with the catalogue, and stores which price belongs to which version of a plan.

use schema::Interval;

use super::{used_prices, versions};
use crate::{
    accounts::versions::of_catalogue,
    administration::Administration,
    error::Error,
    stripe::{
        Stripe,
        catalogue::{self, Change, ExistingObjects, PortalConfiguration},
    },
};

/// What Stripe has, and what it lacks.
pub struct Comparison {
    existing: ExistingObjects,
    pub changes: Vec<Change>,
}

impl Comparison {
    /// Active prices of our plans for an interval that no plan is sold for, each with its product. A person made them.
    pub fn other_intervals(&self) -> Vec<String> {
        let prices = self.existing.of_products.iter();
        let others = prices.filter(|price| price.active && !price.is_metered() && price.plan().is_some());
        let others = others.filter(|price| Interval::from_months(price.interval_months()).is_none());
        others
            .map(|price| format!("{} of {}", price.id, price.product.id()))
            .collect()
    }

    /// The configuration of the customer portal that an earlier command made.
    pub fn portal(&self) -> Option<&PortalConfiguration> {
        self.existing.portal.as_ref()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unused {
    Keep,
    /// Deactivate prices that are neither in use nor sold.
    Prune,
}

/// Compares Stripe with the catalogue. Changes nothing.
pub async fn compare(stripe: &Stripe, admin: &Administration, unused: Unused) -> Result<Comparison, Error> {
    let (db, catalogue) = (&admin.db, &admin.catalogue);
    let existing = catalogue::find(stripe, catalogue, used_prices::known(db).await?).await?;
    let mut changes = catalogue::changes(catalogue, &existing);
    if unused == Unused::Prune {
        used_prices::refuse_unknown(db).await?;
        changes.extend(catalogue::unused(catalogue, &existing));
    }
    Ok(Comparison { existing, changes })
}

/// Makes the changes, and stores the prices. It may be repeated.
pub async fn apply(stripe: &Stripe, admin: &Administration, of: Comparison) -> Result<(), Error> {
    catalogue::apply(stripe, &admin.catalogue, &of.changes, of.existing).await?;
    store(stripe, admin).await
}

/// Stores the prices that the catalogue's plans have in Stripe now. A worker that still has another catalogue then sells its own
/// version by them.
pub async fn store(stripe: &Stripe, admin: &Administration) -> Result<(), Error> {
    let wanted = catalogue::wanted(&admin.catalogue);
    let keys: Vec<String> = wanted.iter().map(|wanted| wanted.lookup_key.clone()).collect();
    let known = used_prices::versions(&admin.db).await?;
    let found = catalogue::prices(stripe, &keys).await?;
    let mut tx = admin.db.begin().await?;
    let plans = of_catalogue(&mut tx, &admin.catalogue).await?;
    for wanted in &wanted {
        let price = found.get(&wanted.lookup_key).filter(|price| wanted.is(price, &known));
        if let (Some(price), Some(version)) = (price, plans.get(&wanted.plan)) {
            versions::add_price(&mut tx, *version, &price.id, wanted.usage_type(), wanted.interval()).await?;
        }
    }
    tx.commit().await?;
    Ok(())
}
