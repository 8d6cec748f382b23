//! The plan catalogue as products, prices and meters in Stripe: what there should be, what has to be done for it, and doing it.
//! Everything is found by id, event name or lookup key, so a sync that was interrupted or is done twice changes nothing more.

use std::{collections::HashMap, fmt};

use schema::{Catalogue, Plan, UsageType};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use stripe_billing::billing_meter::{
    CreateBillingMeter, CreateBillingMeterCustomerMapping, CreateBillingMeterCustomerMappingType,
    CreateBillingMeterDefaultAggregation, CreateBillingMeterDefaultAggregationFormula, CreateBillingMeterValueSettings,
    ListBillingMeter,
};
use stripe_product::{
    price::{
        CreatePrice, CreatePriceRecurring, CreatePriceRecurringInterval, CreatePriceRecurringUsageType,
        CreatePriceTiers, CreatePriceTiersUpTo, ListPrice, UpdatePrice,
    },
    product::{CreateProduct, RetrieveProduct, UpdateProduct},
};
use tracing::info;
use uuid::Uuid;

use super::{
    Stripe, StripeError, Write, names,
    object::{List, subscription::Price},
};

/// The one currency of the catalogue.
pub const CURRENCY: &str = "usd";

/// Something that Stripe lacks or has otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    CreateMeter(UsageType),
    CreateProduct(WantedProduct),
    RenameProduct(WantedProduct),
    /// A new price; `replaces` loses the lookup key to it, and goes on for those who have it.
    CreatePrice {
        wanted: WantedPrice,
        replaces: Option<String>,
    },
}

/// A product that the catalogue asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedProduct {
    id: String,
    /// As customers read it on invoices.
    name: String,
    plan: String,
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
    /// So much a month.
    Monthly { cents: i64 },
    /// Nothing for the first `included` units of a month, then so much for each.
    Metered {
        usage_type: UsageType,
        included: i64,
        unit_price_micros: i64,
    },
}

/// What Stripe has now.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Meter ids by event name.
    pub meters: HashMap<String, String>,
    /// Product names by product id.
    pub products: HashMap<String, String>,
    /// Active prices by lookup key.
    pub prices: HashMap<String, Price>,
}

#[derive(Deserialize)]
struct Meter {
    id: String,
    event_name: String,
}

#[derive(Deserialize)]
struct Product {
    id: String,
    name: String,
}

/// Those that Stripe knows: Free costs nothing.
fn paid(catalogue: &Catalogue) -> impl Iterator<Item = &Plan> {
    catalogue.plans().iter().filter(|plan| plan.id != Catalogue::FREE)
}

/// The products that the catalogue asks for: each plan's, and those of what it bills by the unit.
fn products(catalogue: &Catalogue) -> Vec<WantedProduct> {
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

/// A plan's own price, then those of what it bills by the unit.
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

/// What has to be done so that Stripe has what the catalogue asks for, in the order in which it can be done.
pub fn changes(catalogue: &Catalogue, found: &Found) -> Vec<Change> {
    let meters = catalogue.usage_types().iter().copied();
    let meters = meters.filter(|usage_type| !found.meters.contains_key(&names::meter_event_name(*usage_type)));
    let products = products(catalogue)
        .into_iter()
        .filter_map(|wanted| match found.products.get(&wanted.id) {
            None => Some(Change::CreateProduct(wanted)),
            Some(known) if *known != wanted.name => Some(Change::RenameProduct(wanted)),
            Some(_) => None,
        });
    let prices = wanted(catalogue).into_iter().filter_map(|wanted| {
        let known = found.prices.get(&wanted.lookup_key);
        let is_same = known.is_some_and(|price| price.metadata.get(names::META_TERMS) == Some(&wanted.terms.short()));
        (!is_same).then(|| Change::CreatePrice {
            replaces: known.map(|price| price.id.clone()),
            wanted,
        })
    });
    meters.map(Change::CreateMeter).chain(products).chain(prices).collect()
}

/// Reads what Stripe has of what the catalogue asks for.
pub async fn find(stripe: &Stripe, catalogue: &Catalogue) -> Result<Found, StripeError> {
    let mut found = Found::default();
    let mut after: Option<String> = None;
    loop {
        let mut list = ListBillingMeter::new()
            .limit(100)
            .status(stripe_billing::BillingMeterStatus::Active);
        if let Some(after) = &after {
            list = list.starting_after(after);
        }
        let page: List<Meter> = stripe.read(&list).await?;
        after = page.data.last().map(|meter| meter.id.clone());
        found
            .meters
            .extend(page.data.into_iter().map(|meter| (meter.event_name, meter.id)));
        if !page.has_more {
            break;
        }
    }
    for wanted in products(catalogue) {
        match stripe.read::<Product>(&RetrieveProduct::new(wanted.id)).await {
            Ok(product) => drop(found.products.insert(product.id, product.name)),
            Err(error) if error.is_missing() => {}
            Err(error) => return Err(error),
        }
    }
    let keys: Vec<String> = wanted(catalogue).into_iter().map(|wanted| wanted.lookup_key).collect();
    found.prices = prices(stripe, &keys).await?;
    Ok(found)
}

/// Active prices by lookup key; one that Stripe lacks is absent.
pub async fn prices(stripe: &Stripe, lookup_keys: &[String]) -> Result<HashMap<String, Price>, StripeError> {
    /// As many as Stripe looks for at once.
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

/// Makes what Stripe lacks. Two that do so at once use the same idempotency keys. A 5xx stays so under its key for a day: what it
/// may have made all the same is looked for, and then another key is tried, once.
pub async fn apply(
    stripe: &Stripe,
    catalogue: &Catalogue,
    changes: &[Change],
    mut found: Found,
) -> Result<(), StripeError> {
    for change in changes {
        match make(stripe, change, &mut found.meters, "").await {
            Err(StripeError::Failed(_)) => {
                found = find(stripe, catalogue).await?;
                if self::changes(catalogue, &found)
                    .iter()
                    .any(|lacks| lacks.makes_as(change))
                {
                    make(stripe, change, &mut found.meters, &format!("-{}", Uuid::now_v7())).await?;
                }
            }
            made => made?,
        }
        if let Change::CreatePrice {
            replaces: Some(old), ..
        } = change
        {
            let retire = UpdatePrice::new(old.as_str()).active(false);
            stripe.write::<Price>(&retire, Write::Settable).await?;
        }
        info!("Stripe: {change}");
    }
    Ok(())
}

/// One change, under idempotency keys of that ending. `meters` holds the meters' ids by event name, and gets a new one.
async fn make(
    stripe: &Stripe,
    change: &Change,
    meters: &mut HashMap<String, String>,
    ending: &str,
) -> Result<(), StripeError> {
    match change {
        Change::CreateMeter(usage_type) => {
            let event_name = names::meter_event_name(*usage_type);
            let formula = CreateBillingMeterDefaultAggregation::new(CreateBillingMeterDefaultAggregationFormula::Sum);
            let create = CreateBillingMeter::new(formula, title(*usage_type), event_name.clone())
                .customer_mapping(CreateBillingMeterCustomerMapping::new(
                    names::PAYLOAD_CUSTOMER,
                    CreateBillingMeterCustomerMappingType::ById,
                ))
                .value_settings(CreateBillingMeterValueSettings::new(names::PAYLOAD_VALUE));
            let key = format!("meter-{event_name}{ending}");
            let meter: Meter = stripe.write(&create, Write::Keyed(&key)).await?;
            meters.insert(event_name, meter.id);
        }
        Change::CreateProduct(WantedProduct { id, name, plan }) => {
            let create = CreateProduct::new(name.clone())
                .id(id.clone())
                .metadata(HashMap::from([(names::META_PLAN.to_owned(), plan.clone())]));
            let key = format!("product-{id}-{}{ending}", digest(name));
            stripe.write::<Product>(&create, Write::Keyed(&key)).await?;
        }
        Change::RenameProduct(WantedProduct { id, name, .. }) => {
            let update = UpdateProduct::new(id.as_str()).name(name.clone());
            stripe.write::<Product>(&update, Write::Settable).await?;
        }
        Change::CreatePrice { wanted, replaces } => {
            let create = wanted.request(meters)?;
            let key = format!(
                "price-{}-{}-{}{ending}",
                wanted.lookup_key,
                wanted.terms.short(),
                replaces.as_deref().unwrap_or("new")
            );
            stripe.write::<Price>(&create, Write::Keyed(&key)).await?;
        }
    }
    Ok(())
}

impl Change {
    /// Whether both make the same thing.
    fn makes_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::CreatePrice { wanted, .. }, Self::CreatePrice { wanted: other, .. }) => wanted == other,
            _ => self == other,
        }
    }
}

impl WantedPrice {
    fn request(&self, meters: &HashMap<String, String>) -> Result<CreatePrice, StripeError> {
        let mut recurring = CreatePriceRecurring::new(CreatePriceRecurringInterval::Month);
        let mut metadata = HashMap::from([
            (names::META_PLAN.to_owned(), self.plan.clone()),
            (names::META_TERMS.to_owned(), self.terms.short()),
        ]);
        let product = match &self.terms {
            Terms::Monthly { .. } => names::product_id(&self.plan),
            Terms::Metered { usage_type, .. } => names::overage_product_id(&self.plan, *usage_type),
        };
        let create = CreatePrice::new(stripe_types::Currency::USD)
            .product(product)
            .lookup_key(self.lookup_key.clone())
            .transfer_lookup_key(true);
        let create = match &self.terms {
            Terms::Monthly { cents } => create.unit_amount(*cents),
            Terms::Metered {
                usage_type,
                included,
                unit_price_micros,
            } => {
                let event_name = names::meter_event_name(*usage_type);
                let meter = meters.get(&event_name).ok_or_else(|| {
                    StripeError::Unreadable(format!("the meter {event_name} was made, and is not listed"))
                })?;
                recurring.usage_type = Some(CreatePriceRecurringUsageType::Metered);
                recurring.meter = Some(meter.clone());
                metadata.insert(names::META_USAGE_TYPE.to_owned(), usage_type.name().to_owned());
                let unit = cents_decimal(*unit_price_micros);
                if *included == 0 {
                    create.unit_amount_decimal(unit)
                } else {
                    let mut first = CreatePriceTiers::new(CreatePriceTiersUpTo::I64(*included));
                    first.unit_amount = Some(0);
                    let mut rest = CreatePriceTiers::new(CreatePriceTiersUpTo::Inf);
                    rest.unit_amount_decimal = Some(unit);
                    create
                        .billing_scheme(stripe_product::PriceBillingScheme::Tiered)
                        .tiers_mode(stripe_product::PriceTiersMode::Graduated)
                        .tiers(vec![first, rest])
                }
            }
        };
        Ok(create.recurring(recurring).metadata(metadata))
    }
}

impl Terms {
    /// Tells terms apart, in a price's metadata.
    fn short(&self) -> String {
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

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateMeter(usage_type) => write!(f, "create meter {}", names::meter_event_name(*usage_type)),
            Self::CreateProduct(WantedProduct { id, name, .. }) => write!(f, "create product {id} ({name})"),
            Self::RenameProduct(WantedProduct { id, name, .. }) => write!(f, "rename product {id} to {name}"),
            Self::CreatePrice { wanted, replaces } => {
                write!(f, "create price {} ({})", wanted.lookup_key, wanted.terms.short())?;
                match replaces {
                    Some(old) => write!(f, ", which takes the place of {old}"),
                    None => Ok(()),
                }
            }
        }
    }
}

/// Millionths of a dollar as a decimal number of cents, exactly.
fn cents_decimal(micros: i64) -> String {
    let (whole, rest) = (micros / 10_000, micros % 10_000);
    match rest {
        0 => whole.to_string(),
        _ => format!("{whole}.{rest:04}").trim_end_matches('0').to_owned(),
    }
}

/// `api_call` as people read it: `api call`.
fn words(usage_type: UsageType) -> String {
    usage_type.name().replace('_', " ")
}

/// At the beginning of a line: `Api call`.
fn title(usage_type: UsageType) -> String {
    let words = words(usage_type);
    let mut letters = words.chars();
    letters
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

fn digest(text: &str) -> String {
    Sha256::digest(text.as_bytes())[..6]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overage() -> Catalogue {
        let built_in = include_str!("../../../schema/plans.toml");
        let text = built_in.replacen(
            "usage.api_call = { limit = 10_000 }",
            "usage.api_call = { limit = 10_000, mode = \"overage\", unit_price_micros = 1_500 }",
            1,
        );
        Catalogue::parse(&text).unwrap()
    }

    #[test]
    fn an_empty_account_gets_meters_then_products_then_prices() {
        let changes = changes(&overage(), &Found::default());
        let shown: Vec<String> = changes.iter().map(Change::to_string).collect();
        assert_eq!(
            shown,
            [
                "create meter trendit_api_call",
                "create meter trendit_export",
                "create meter trendit_sentiment_analysis",
                "create product trendit_pro (Pro)",
                "create product trendit_pro_api_call (Pro: api call)",
                "create product trendit_enterprise (Enterprise)",
                "create price trendit_pro (usd-2900-month)",
                "create price trendit_pro_api_call (usd-10000-included-1500-micros)",
                "create price trendit_enterprise (usd-29900-month)",
            ]
        );
    }

    #[test]
    fn what_is_there_as_asked_for_is_left_and_other_terms_are_another_price() {
        let catalogue = overage();
        let price = |wanted: WantedPrice, terms: String| Price {
            id: format!("price_{}", wanted.lookup_key),
            active: true,
            lookup_key: Some(wanted.lookup_key),
            currency: CURRENCY.to_owned(),
            unit_amount: None,
            product: super::super::object::Reference::Id(names::product_id(&wanted.plan)),
            recurring: None,
            metadata: HashMap::from([(names::META_TERMS.to_owned(), terms)]),
        };
        let mut found = Found {
            meters: catalogue
                .usage_types()
                .iter()
                .map(|usage_type| (names::meter_event_name(*usage_type), "mtr_1".to_owned()))
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
        };
        let dearer = found.prices.get_mut("trendit_pro").unwrap();
        dearer
            .metadata
            .insert(names::META_TERMS.to_owned(), "usd-1900-month".to_owned());
        let shown: Vec<String> = changes(&catalogue, &found).iter().map(Change::to_string).collect();
        assert_eq!(
            shown,
            [
                "rename product trendit_enterprise to Enterprise",
                "create price trendit_pro (usd-2900-month), which takes the place of price_trendit_pro",
            ]
        );
    }

    #[test]
    fn unit_prices_are_exact() {
        for (micros, cents) in [
            (1_000, "0.1"),
            (10_000, "1"),
            (25_000, "2.5"),
            (1, "0.0001"),
            (1_234_567, "123.4567"),
        ] {
            assert_eq!(cents_decimal(micros), cents);
        }
    }
}
