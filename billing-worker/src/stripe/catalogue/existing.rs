//! The objects of the catalogue that exist in Stripe.

use std::collections::{BTreeSet, HashMap};

use schema::Catalogue;
use serde::Deserialize;
use stripe_billing::{
    BillingMeterStatus, billing_meter::ListBillingMeter, billing_portal_configuration::ListBillingPortalConfiguration,
};
use stripe_product::{price::ListPrice, product::RetrieveProduct};

use super::wanted::{products, wanted};
use crate::stripe::{
    Stripe, StripeError, names,
    object::{List, subscription::Price},
};

/// The objects that Stripe has now.
#[derive(Clone, Debug, Default)]
pub struct ExistingObjects {
    /// Meter ids by event name.
    pub meters: HashMap<String, String>,
    /// Product names by product id.
    pub products: HashMap<String, String>,
    /// Active prices by lookup key.
    pub prices: HashMap<String, Price>,
    /// All prices of the catalogue's products, inactive ones too.
    pub of_products: Vec<Price>,
    pub known: KnownPrices,
    /// Our configuration of the customer portal.
    pub portal: Option<PortalConfiguration>,
}

/// What this service knows about prices in Stripe.
#[derive(Clone, Debug, Default)]
pub struct KnownPrices {
    /// Ids of those that subscriptions have or may get.
    pub in_use: BTreeSet<String>,
    /// Version by id of a plan's own price, as its metadata would name it.
    pub versions: HashMap<String, String>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct PortalConfiguration {
    pub id: String,
    pub active: bool,
    metadata: Option<HashMap<String, String>>,
    #[serde(default)]
    features: PortalFeatures,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct PortalFeatures {
    subscription_cancel: Option<PortalFeature>,
    subscription_update: Option<PortalFeature>,
}

#[derive(Clone, Debug, Deserialize)]
struct PortalFeature {
    enabled: bool,
    /// Of a cancellation: `at_period_end` or `immediately`.
    mode: Option<String>,
}

impl PortalConfiguration {
    /// Whether customers can change their plan or quantity in the portal.
    pub fn changes_plans(&self) -> bool {
        self.features
            .subscription_update
            .as_ref()
            .is_some_and(|update| update.enabled)
    }

    /// Whether a cancellation there ends the subscription at once.
    pub fn cancels_at_once(&self) -> bool {
        let cancel = self
            .features
            .subscription_cancel
            .as_ref()
            .filter(|cancel| cancel.enabled);
        cancel.is_some_and(|cancel| cancel.mode.as_deref() == Some("immediately"))
    }
}

#[cfg(test)]
impl PortalConfiguration {
    pub(super) fn inactive(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            active: false,
            metadata: None,
            features: PortalFeatures::default(),
        }
    }
}

#[derive(Deserialize)]
pub(super) struct Meter {
    pub(super) id: String,
    event_name: String,
}

#[derive(Deserialize)]
pub(super) struct Product {
    id: String,
    name: String,
}

/// Reads the existing meters, products and prices of the catalogue from Stripe.
pub async fn find(stripe: &Stripe, catalogue: &Catalogue, known: KnownPrices) -> Result<ExistingObjects, StripeError> {
    let mut existing = ExistingObjects {
        meters: meters(stripe).await?,
        known,
        ..ExistingObjects::default()
    };
    for wanted in products(catalogue) {
        match stripe.read::<Product>(&RetrieveProduct::new(wanted.id)).await {
            Ok(product) => {
                existing.of_products.extend(of_product(stripe, &product.id).await?);
                existing.products.insert(product.id, product.name);
            }
            Err(error) if error.is_missing() => {}
            Err(error) => return Err(error),
        }
    }
    let keys: Vec<String> = wanted(catalogue).into_iter().map(|wanted| wanted.lookup_key).collect();
    existing.prices = prices(stripe, &keys).await?;
    existing.portal = portal(stripe).await?;
    Ok(existing)
}

/// Ids of the active meters by event name.
pub async fn meters(stripe: &Stripe) -> Result<HashMap<String, String>, StripeError> {
    /// Pages of a hundred meters. There is one for each usage type.
    const PAGES_MAX: usize = 10;
    let page = |after: Option<String>| {
        let list = ListBillingMeter::new().status(BillingMeterStatus::Active).limit(100);
        match after {
            Some(after) => list.starting_after(after),
            None => list,
        }
    };
    let meters: Vec<Meter> = stripe.pages(PAGES_MAX, page, |meter: &Meter| &meter.id).await?;
    Ok(meters.into_iter().map(|meter| (meter.event_name, meter.id)).collect())
}

/// Our configuration of the customer portal, an active one if there are several. Stripe lists the newest first; ours is among
/// the newest 100, or `stripe sync` makes another one.
pub async fn portal(stripe: &Stripe) -> Result<Option<PortalConfiguration>, StripeError> {
    let page: List<PortalConfiguration> = stripe.read(&ListBillingPortalConfiguration::new().limit(100)).await?;
    let is_ours = |one: &PortalConfiguration| {
        let metadata = one.metadata.as_ref();
        metadata.is_some_and(|metadata| metadata.contains_key(names::META_OURS))
    };
    let ours = page.data.into_iter().filter(is_ours);
    Ok(ours.max_by_key(|configuration| configuration.active))
}

/// Both active and inactive.
async fn of_product(stripe: &Stripe, product: &str) -> Result<Vec<Price>, StripeError> {
    /// Pages of a hundred prices. There is one for each change of terms.
    const PAGES_MAX: usize = 10;
    let page = |after: Option<String>| {
        let list = ListPrice::new().product(product).limit(100);
        match after {
            Some(after) => list.starting_after(after),
            None => list,
        }
    };
    stripe.pages(PAGES_MAX, page, |price: &Price| &price.id).await
}

/// Active prices by lookup key; one that Stripe lacks is absent.
pub async fn prices(stripe: &Stripe, lookup_keys: &[String]) -> Result<HashMap<String, Price>, StripeError> {
    /// Stripe looks up ten keys in one call.
    const KEYS: usize = 10;
    let mut found = HashMap::new();
    for keys in lookup_keys.chunks(KEYS) {
        let list = ListPrice::new().lookup_keys(keys.to_vec()).active(true).limit(100);
        let page: List<Price> = stripe.read(&list).await?;
        let keyed = page
            .data
            .into_iter()
            .filter_map(|price| Some((price.lookup_key.clone()?, price)));
        found.extend(keyed);
    }
    Ok(found)
}
