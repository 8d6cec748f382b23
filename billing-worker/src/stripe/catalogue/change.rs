//! The changes that Stripe needs. Pure.

use std::fmt;

use schema::{Catalogue, Interval, UsageType};

use super::{
    existing::ExistingObjects,
    wanted::{WantedPrice, WantedProduct, products, wanted},
};
use crate::stripe::{names, object::subscription::Price};

/// A change that removes a difference between Stripe and the catalogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// In this slot.
    CreateMeter(UsageType, i16),
    CreateProduct(WantedProduct),
    RenameProduct(WantedProduct),
    /// A new price. It takes over the lookup key of `replaces`, which stays active for subscriptions that have it.
    CreatePrice {
        wanted: WantedPrice,
        replaces: Option<String>,
    },
    /// A price that somebody deactivated although it is in use or sold: its id.
    ActivatePrice(String),
    /// A price that is not in use, and that is not sold.
    DeactivatePrice(String),
    /// The configuration of the customer portal.
    CreatePortal,
    /// The same, which somebody deactivated: its id.
    ActivatePortal(String),
}

/// The changes that bring Stripe in line with the catalogue, in the order in which they can be made.
pub fn changes(catalogue: &Catalogue, existing: &ExistingObjects) -> Vec<Change> {
    let slots = 0..names::METER_SLOTS;
    let meters = slots.flat_map(|slot| {
        catalogue
            .usage_types()
            .iter()
            .map(move |usage_type| (*usage_type, slot))
    });
    let meters = meters.filter(|(usage_type, slot)| {
        !existing
            .meters
            .contains_key(&names::meter_event_name(usage_type, *slot))
    });
    let products = products(catalogue)
        .into_iter()
        .filter_map(|wanted| match existing.products.get(&wanted.id) {
            None => Some(Change::CreateProduct(wanted)),
            Some(known) if *known != wanted.name => Some(Change::RenameProduct(wanted)),
            Some(_) => None,
        });
    let (sold, versions) = (wanted(catalogue), &existing.known.versions);
    let is_sold = |price: &Price| {
        let mut sold = sold.iter();
        sold.any(|wanted| price.lookup_key.as_ref() == Some(&wanted.lookup_key) && wanted.is(price, versions))
    };
    let inactive = existing.of_products.iter().filter(|price| !price.active);
    // A price of another interval stays inactive, even if somebody subscribed to it: no plan is sold for that.
    let inactive = inactive.filter(|price| Interval::from_months(price.interval_months()).is_some());
    let again = inactive.filter(|price| existing.known.in_use.contains(&price.id) || is_sold(price));
    let again: Vec<&Price> = again.collect();
    let prices = sold.iter().filter_map(|wanted| {
        let known = existing.prices.get(&wanted.lookup_key);
        let mut same = known.into_iter().chain(again.iter().copied());
        let has_it =
            same.any(|price| price.lookup_key.as_ref() == Some(&wanted.lookup_key) && wanted.is(price, versions));
        (!has_it).then(|| Change::CreatePrice {
            replaces: known.map(|price| price.id.clone()),
            wanted: wanted.clone(),
        })
    });
    let again = again.iter().map(|price| Change::ActivatePrice(price.id.clone()));
    let portal = match &existing.portal {
        None => Some(Change::CreatePortal),
        Some(portal) => (!portal.active).then(|| Change::ActivatePortal(portal.id.clone())),
    };
    meters
        .map(|(usage_type, slot)| Change::CreateMeter(usage_type, slot))
        .chain(products)
        .chain(prices)
        .chain(again)
        .chain(portal)
        .collect()
}

/// Deactivates prices of the catalogue's products that this service made, that are not in use, and that are not sold now: nobody
/// subscribes to them by mistake.
pub fn unused(catalogue: &Catalogue, existing: &ExistingObjects) -> Vec<Change> {
    let sold = wanted(catalogue);
    let is_sold = |id: &str| {
        let mut prices = sold.iter().filter_map(|wanted| existing.prices.get(&wanted.lookup_key));
        prices.any(|price| price.id == id)
    };
    let unused = existing
        .of_products
        .iter()
        .filter(|price| price.active && price.metadata.contains_key(names::META_TERMS))
        .filter(|price| !existing.known.in_use.contains(&price.id) && !is_sold(&price.id));
    unused.map(|price| Change::DeactivatePrice(price.id.clone())).collect()
}

impl Change {
    /// Whether both make the same thing.
    pub(super) fn makes_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::CreatePrice { wanted, .. }, Self::CreatePrice { wanted: other, .. }) => wanted == other,
            _ => self == other,
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateMeter(usage_type, slot) => {
                write!(f, "create meter {}", names::meter_event_name(usage_type, *slot))
            }
            Self::CreateProduct(WantedProduct { id, name, .. }) => write!(f, "create product {id} ({name})"),
            Self::RenameProduct(WantedProduct { id, name, .. }) => write!(f, "rename product {id} to {name}"),
            Self::CreatePrice { wanted, replaces } => {
                write!(f, "create price {} ({})", wanted.lookup_key, wanted.terms.short())?;
                match replaces {
                    Some(old) => write!(f, ", which replaces {old}"),
                    None => Ok(()),
                }
            }
            Self::ActivatePrice(id) => write!(f, "activate price {id}"),
            Self::DeactivatePrice(id) => write!(f, "deactivate price {id}"),
            Self::CreatePortal => write!(f, "create the configuration of the customer portal"),
            Self::ActivatePortal(id) => write!(f, "activate the configuration {id} of the customer portal"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use serde_json::json;

    use super::*;
    use crate::stripe::{
        catalogue::existing::{KnownPrices, PortalConfiguration},
        object::Reference,
    };

    fn overage() -> Catalogue {
        let built_in = include_str!("../../../../schema/plans.toml");
        let text = built_in.replacen(
            "usage.api_call = { limit = 10_000 }",
            "usage.api_call = { limit = 10_000, mode = \"overage\", unit_price_micros = 1_500 }",
            1,
        );
        Catalogue::parse(&text).unwrap()
    }

    #[test]
    fn an_empty_account_gets_meters_then_products_then_prices() {
        let changes = changes(&overage(), &ExistingObjects::default());
        let shown: Vec<String> = changes.iter().map(Change::to_string).collect();
        assert_eq!(
            shown,
            [
                "create meter trendit_api_call",
                "create meter trendit_export",
                "create meter trendit_sentiment_analysis",
                "create meter trendit2_api_call",
                "create meter trendit2_export",
                "create meter trendit2_sentiment_analysis",
                "create meter trendit3_api_call",
                "create meter trendit3_export",
                "create meter trendit3_sentiment_analysis",
                "create product trendit_pro (Pro)",
                "create product trendit_pro_api_call (Pro: api call)",
                "create product trendit_enterprise (Enterprise)",
                "create price trendit_pro (usd-2900-month)",
                "create price trendit_pro_api_call (usd-10000-included-1500-micros)",
                "create price trendit_enterprise (usd-29900-month)",
                "create the configuration of the customer portal",
            ]
        );
    }

    #[test]
    fn matching_objects_stay_and_new_terms_need_a_new_price() {
        let catalogue = overage();
        let price = |wanted: WantedPrice, terms: String| Price {
            id: format!("price_{}", wanted.lookup_key),
            active: true,
            lookup_key: Some(wanted.lookup_key),
            currency: "usd".to_owned(),
            unit_amount: None,
            product: Reference::Id(names::product_id(&wanted.plan)),
            recurring: None,
            metadata: HashMap::from([(names::META_TERMS.to_owned(), terms)]),
        };
        let mut existing = ExistingObjects {
            meters: (0..names::METER_SLOTS)
                .flat_map(|slot| {
                    catalogue
                        .usage_types()
                        .iter()
                        .map(move |one| names::meter_event_name(one, slot))
                })
                .map(|name| (name, "mtr_1".to_owned()))
                .collect(),
            products: [
                ("trendit_pro", "Pro"),
                ("trendit_pro_api_call", "Pro: api call"),
                ("trendit_enterprise", "Old name"),
            ]
            .map(|(id, name)| (id.to_owned(), name.to_owned()))
            .into(),
            prices: wanted(&catalogue)
                .into_iter()
                .map(|wanted| (wanted.lookup_key.clone(), price(wanted.clone(), wanted.terms.short())))
                .collect(),
            of_products: vec![],
            known: KnownPrices {
                in_use: ["price_trendit_pro_0".to_owned(), "price_trendit_pro_1".to_owned()].into(),
                versions: HashMap::from([("price_trendit_enterprise".to_owned(), "older".to_owned())]),
            },
            portal: Some(PortalConfiguration::inactive("bpc_1")),
        };
        let pro = existing.prices["trendit_pro"].clone();
        for (n, active) in [(0, true), (1, false), (2, true), (3, false)] {
            existing.of_products.push(Price {
                id: format!("price_trendit_pro_{n}"),
                active,
                lookup_key: None,
                ..pro.clone()
            });
        }
        // A person made it for three months, and a subscription has it.
        let recurring = json!({ "interval": "month", "interval_count": 3, "usage_type": "licensed", "meter": null });
        existing.known.in_use.insert("price_by_hand".to_owned());
        existing.of_products.push(Price {
            id: "price_by_hand".to_owned(),
            active: false,
            lookup_key: None,
            recurring: serde_json::from_value(recurring).unwrap(),
            ..pro.clone()
        });
        existing.of_products.push(pro);
        let dearer = existing.prices.get_mut("trendit_pro").unwrap();
        dearer
            .metadata
            .insert(names::META_TERMS.to_owned(), "usd-1900-month".to_owned());
        let shown: Vec<String> = changes(&catalogue, &existing).iter().map(Change::to_string).collect();
        assert_eq!(
            shown,
            [
                "rename product trendit_enterprise to Enterprise",
                "create price trendit_pro (usd-2900-month), which replaces price_trendit_pro",
                "create price trendit_enterprise (usd-29900-month), which replaces price_trendit_enterprise",
                "activate price price_trendit_pro_1",
                "activate the configuration bpc_1 of the customer portal",
            ]
        );
        assert_eq!(
            unused(&catalogue, &existing),
            [Change::DeactivatePrice("price_trendit_pro_2".to_owned())]
        );
    }
}
