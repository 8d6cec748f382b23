//! Makes changes to the catalogue in Stripe.

use std::collections::HashMap;

use schema::{Catalogue, Interval, UsageType};
use sha2::{Digest, Sha256};
use stripe_billing::billing_meter::{
    CreateBillingMeter, CreateBillingMeterCustomerMapping, CreateBillingMeterCustomerMappingType,
    CreateBillingMeterDefaultAggregation, CreateBillingMeterDefaultAggregationFormula, CreateBillingMeterValueSettings,
};
use stripe_billing::billing_portal_configuration::UpdateBillingPortalConfiguration;
use stripe_product::{
    price::{
        CreatePrice, CreatePriceRecurring, CreatePriceRecurringInterval, CreatePriceRecurringUsageType,
        CreatePriceTiers, CreatePriceTiersUpTo, UpdatePrice,
    },
    product::{CreateProduct, UpdateProduct},
};
use tracing::info;
use uuid::Uuid;

use super::{
    change::{Change, changes, unused},
    existing::{ExistingObjects, Meter, PortalConfiguration, Product, find},
    portal,
    rate::Rate,
    wanted::{Terms, WantedPrice, WantedProduct, words},
};
use crate::stripe::{Stripe, StripeError, Write, names, object::subscription::Price};

/// Makes the changes. Two workers that do so at the same time use the same idempotency keys. Stripe repeats a 5xx under its key
/// for a day, although the call may have taken effect. So Stripe is read again, and another key is tried once.
pub async fn apply(
    stripe: &Stripe,
    catalogue: &Catalogue,
    wanted: &[Change],
    mut existing: ExistingObjects,
) -> Result<(), StripeError> {
    for change in wanted {
        match make(stripe, change, &mut existing.meters, "").await {
            Err(StripeError::Failed(_)) => {
                existing = find(stripe, catalogue, existing.known).await?;
                let mut lacking = changes(catalogue, &existing)
                    .into_iter()
                    .chain(unused(catalogue, &existing));
                if lacking.any(|lacks| lacks.makes_as(change)) {
                    make(stripe, change, &mut existing.meters, &format!("-{}", Uuid::now_v7())).await?;
                }
            }
            made => made?,
        }
        info!("Stripe: {change}");
    }
    Ok(())
}

/// Makes one change, under an idempotency key with this ending. `meters`: ids by event name; a new meter is added.
async fn make(
    stripe: &Stripe,
    change: &Change,
    meters: &mut HashMap<String, String>,
    ending: &str,
) -> Result<(), StripeError> {
    match change {
        Change::CreateMeter(usage_type, slot) => {
            let event_name = names::meter_event_name(usage_type, *slot);
            let formula = CreateBillingMeterDefaultAggregation::new(CreateBillingMeterDefaultAggregationFormula::Sum);
            let create = CreateBillingMeter::new(formula, title(*usage_type, *slot), event_name.clone())
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
                "price-{}-{}-{}-{}{ending}",
                wanted.lookup_key,
                wanted.terms.short(),
                wanted.version.as_deref().unwrap_or("any"),
                replaces.as_deref().unwrap_or("new")
            );
            stripe.write::<Price>(&create, Write::Keyed(&key)).await?;
        }
        Change::ActivatePrice(id) => activate(stripe, id).await?,
        Change::DeactivatePrice(id) => {
            let update = UpdatePrice::new(id.as_str()).active(false);
            stripe.write::<Price>(&update, Write::Settable).await?;
        }
        Change::CreatePortal => {
            let key = format!("portal-configuration{ending}");
            stripe
                .write::<PortalConfiguration>(&portal::request(), Write::Keyed(&key))
                .await?;
        }
        Change::ActivatePortal(id) => {
            let update = UpdateBillingPortalConfiguration::new(id.as_str()).active(true);
            stripe.write::<PortalConfiguration>(&update, Write::Settable).await?;
        }
    }
    Ok(())
}

/// Stripe accepts only active prices in a new phase of a subscription, even if the subscription has them already.
pub async fn activate(stripe: &Stripe, price: &str) -> Result<(), StripeError> {
    let update = UpdatePrice::new(price).active(true);
    stripe.write::<Price>(&update, Write::Settable).await?;
    Ok(())
}

impl WantedPrice {
    fn request(&self, meters: &HashMap<String, String>) -> Result<CreatePrice, StripeError> {
        let mut recurring = CreatePriceRecurring::new(match self.interval() {
            Interval::Month => CreatePriceRecurringInterval::Month,
            Interval::Year => CreatePriceRecurringInterval::Year,
        });
        let mut metadata = HashMap::from([
            (names::META_PLAN.to_owned(), self.plan.clone()),
            (names::META_TERMS.to_owned(), self.terms.short()),
        ]);
        metadata.extend(
            self.version
                .clone()
                .map(|version| (names::META_VERSION.to_owned(), version)),
        );
        let product = match &self.terms {
            Terms::Licensed { .. } => names::product_id(&self.plan),
            Terms::Metered { usage_type, .. } => names::overage_product_id(&self.plan, *usage_type),
        };
        let create = CreatePrice::new(stripe_types::Currency::USD)
            .product(product)
            .lookup_key(self.lookup_key.clone())
            .transfer_lookup_key(true);
        let create = match &self.terms {
            Terms::Licensed { cents, .. } => create.unit_amount(*cents),
            Terms::Metered {
                usage_type,
                included,
                unit_price_micros,
            } => {
                let event_name = names::meter_event_name(usage_type, 0);
                let meter = meters.get(&event_name).ok_or_else(|| {
                    StripeError::Unreadable(format!("Stripe created the meter {event_name} but does not list it"))
                })?;
                recurring.usage_type = Some(CreatePriceRecurringUsageType::Metered);
                recurring.meter = Some(meter.clone());
                metadata.insert(names::META_USAGE_TYPE.to_owned(), usage_type.name().to_owned());
                by_unit(create, *included, *unit_price_micros)
            }
        };
        Ok(create.recurring(recurring).metadata(metadata))
    }
}

/// The same metered price for the meter of another slot. `None`: it is not one of ours.
pub fn copy_in_slot(of: &Price, slot: i16, meter: &str, lookup_key: &str) -> Option<CreatePrice> {
    let rate = Rate::parse(of.metadata.get(names::META_TERMS)?)?;
    let mut recurring = CreatePriceRecurring::new(CreatePriceRecurringInterval::Month);
    recurring.usage_type = Some(CreatePriceRecurringUsageType::Metered);
    recurring.meter = Some(meter.to_owned());
    let mut metadata = of.metadata.clone();
    metadata.insert(names::META_METER_SLOT.to_owned(), slot.to_string());
    let Ok(currency) = rate.currency.parse::<stripe_types::Currency>();
    let create = CreatePrice::new(currency)
        .product(of.product.id().to_owned())
        .lookup_key(lookup_key.to_owned())
        .transfer_lookup_key(true)
        .recurring(recurring)
        .metadata(metadata);
    Some(by_unit(create, rate.included, rate.unit_price_micros))
}

/// The first units cost nothing, this many, and each further one the same.
fn by_unit(create: CreatePrice, included: i64, unit_price_micros: i64) -> CreatePrice {
    let unit = cents_decimal(unit_price_micros);
    if included == 0 {
        return create.unit_amount_decimal(unit);
    }
    let mut first = CreatePriceTiers::new(CreatePriceTiersUpTo::I64(included));
    first.unit_amount = Some(0);
    let mut rest = CreatePriceTiers::new(CreatePriceTiersUpTo::Inf);
    rest.unit_amount_decimal = Some(unit);
    create
        .billing_scheme(stripe_product::PriceBillingScheme::Tiered)
        .tiers_mode(stripe_product::PriceTiersMode::Graduated)
        .tiers(vec![first, rest])
}

/// Millionths of a dollar as a decimal number of cents, exactly.
fn cents_decimal(micros: i64) -> String {
    let (whole, rest) = (micros / 10_000, micros % 10_000);
    match rest {
        0 => whole.to_string(),
        _ => format!("{whole}.{rest:04}").trim_end_matches('0').to_owned(),
    }
}

/// At the beginning of a line: `Api call`; in the second slot `Api call (2)`.
fn title(usage_type: UsageType, slot: i16) -> String {
    let words = words(usage_type);
    let mut letters = words.chars();
    let title: String = letters
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect());
    match slot {
        0 => title,
        slot => format!("{title} ({})", slot + 1),
    }
}

fn digest(text: &str) -> String {
    hex::encode(&Sha256::digest(text.as_bytes())[..6])
}

#[cfg(test)]
mod tests {
    use super::*;

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
