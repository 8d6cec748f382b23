//! Metered prices for the meters of another slot: copies of a plan's metered prices, made when they are first used. A copy is found
//! by a lookup key that names the price and the slot.

use std::collections::HashMap;

use stripe_product::price::RetrievePrice;
use uuid::Uuid;

use super::{billing::Billing, prices::PlanPrices, running::Running};
use crate::{
    error::Error,
    stripe::{
        Write,
        catalogue::{self, copy_in_slot},
        names,
        object::subscription::{Item, Price},
    },
};

/// Whether the subscription's metered items for the meters of this slot have exactly these prices.
pub(super) fn are_in(running: &Running, of: &PlanPrices, slot: i16) -> bool {
    let items: Vec<&Item> = running
        .metered()
        .filter(|item| item.price.meter_slot() == slot)
        .collect();
    let is_of = |item: &Item, price: &str| match slot {
        0 => item.price.id == price,
        slot => item.price.lookup_key == Some(names::slot_lookup_key(price, slot)),
    };
    let has = |price: &str| items.iter().any(|item| is_of(item, price));
    items.len() == of.metered.len() && of.metered.iter().all(|(_, price)| has(price))
}

/// The prices of the plan whose metered usage goes to the meters of this slot.
pub(super) async fn in_slot(billing: &Billing, of: &PlanPrices, slot: i16) -> Result<PlanPrices, Error> {
    if slot == 0 || of.metered.is_empty() {
        return Ok(of.clone());
    }
    let stripe = billing.stripe()?;
    let keys: Vec<String> = of
        .metered
        .iter()
        .map(|(_, price)| names::slot_lookup_key(price, slot))
        .collect();
    let found = catalogue::prices(stripe, &keys).await?;
    let mut meters: Option<HashMap<String, String>> = None;
    let mut metered = Vec::new();
    for ((usage_type, price), key) in of.metered.iter().zip(keys) {
        let id = match found.get(&key) {
            Some(copy) => copy.id.clone(),
            None => {
                if meters.is_none() {
                    meters = Some(catalogue::meters(stripe).await?);
                }
                let original: Price = stripe.read(&RetrievePrice::new(price.as_str())).await?;
                let event_name = names::meter_event_name(usage_type, slot);
                let meter = meters.as_ref().and_then(|meters| meters.get(&event_name));
                let copy = meter.and_then(|meter| copy_in_slot(&original, slot, meter, &key));
                let copy = copy.ok_or(Error::PricesMissing {
                    lookup_keys: event_name,
                })?;
                // Made twice after a lost response, the second one takes over the lookup key.
                let key = format!("{key}-{}", Uuid::now_v7());
                stripe.write::<Price>(&copy, Write::Keyed(&key)).await?.id
            }
        };
        metered.push((usage_type.clone(), id));
    }
    Ok(PlanPrices {
        plan: of.plan.clone(),
        metered,
    })
}
