//! The API of prices.

use serde_json::Value;

use crate::api::call::Call;
use crate::api::{price_amounts, products};
use crate::calendar::Interval;
use crate::failure::Failure;
use crate::form::Param;
use crate::list::{self, in_range, is};
use crate::objects::event;
use crate::objects::metadata::{Metadata, merge_metadata};
use crate::objects::price::{Price, Recurring};
use crate::state::State;

pub(crate) const UNDERSTOOD: &[&str] = &[
    "currency",
    "currency_options",
    "product",
    "product_data",
    "unit_amount",
    "unit_amount_decimal",
    "recurring",
    "billing_scheme",
    "tiers",
    "tiers_mode",
    "lookup_key",
    "transfer_lookup_key",
    "nickname",
    "metadata",
    "active",
    "tax_behavior",
];

pub(crate) const UPDATE_UNDERSTOOD: &[&str] = &["active", "lookup_key", "transfer_lookup_key", "nickname", "metadata"];

pub(crate) fn create(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let params = call.params;
    let recurring = recurring(state, params)?;
    let currency = params.text("currency").unwrap_or_default().to_lowercase();
    let mode = price_amounts::mode(params)?;
    let pricing = price_amounts::pricing(params)?;
    let options = price_amounts::options(params, &currency, &pricing)?;
    let data = params.get("product_data");
    let product = match (params.filled("product"), data) {
        (Some(id), None) if state.products.get(id).is_none() => {
            return Err(Failure::no_such("product", id).param("product"));
        }
        (Some(id), None) => Some(id.to_owned()),
        (None, Some(_)) => None,
        _ => {
            let message = "You must specify exactly one of `product` and `product_data`.";
            return Err(Failure::invalid(message));
        }
    };
    // Check everything that can fail before creating anything.
    let lookup_key = lookup_key(state, params, "")?;
    let product = match product {
        Some(product) => product,
        None => products::make(state, &data.cloned().unwrap_or_default(), call.now)?,
    };
    let id = state.ids.next("price");
    let mut metadata = Metadata::new();
    merge_metadata(&mut metadata, params);
    let price = Price {
        id: id.clone(),
        product,
        currency,
        pricing,
        options,
        recurring,
        mode,
        lookup_key,
        nickname: params.filled("nickname").map(str::to_owned),
        metadata,
        active: params.flag("active").unwrap_or(true),
        created: call.now,
    };
    let object = price.render();
    state.prices.insert(&id, price);
    state.emit("price.created", object.clone(), None);
    Ok(object)
}

pub(crate) fn retrieve(state: &mut State, call: &Call) -> Result<Value, Failure> {
    state
        .prices
        .get(call.id)
        .map(Price::render)
        .ok_or_else(|| Failure::not_found("price", call.id))
}

pub(crate) fn update(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let before = retrieve(state, call)?;
    let lookup_key = lookup_key(state, call.params, call.id)?;
    let price = state
        .prices
        .get_mut(call.id)
        .ok_or_else(|| Failure::not_found("price", call.id))?;
    if call.params.has("lookup_key") {
        price.lookup_key = lookup_key;
    }
    if let Some(nickname) = call.params.text("nickname") {
        price.nickname = Some(nickname.to_owned()).filter(|name| !name.is_empty());
    }
    price.active = call.params.flag("active").unwrap_or(price.active);
    merge_metadata(&mut price.metadata, call.params);
    let after = price.render();
    if let Some(previous) = event::changed(&before, &after) {
        state.emit("price.updated", after.clone(), Some(previous));
    }
    Ok(after)
}

pub(crate) fn list(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let params = call.params;
    let keys = params.texts("lookup_keys");
    if keys.len() > 10 {
        return Err(Failure::invalid("You may only specify up to 10 lookup keys.").param("lookup_keys"));
    }
    let wanted = |price: &Price| {
        let recurring = price.recurring.as_ref();
        in_range(params, "created", price.created)
            && is(params, "active", &price.active.to_string())
            && is(params, "product", &price.product)
            && is(params, "currency", &price.currency)
            && is(
                params,
                "type",
                if recurring.is_some() { "recurring" } else { "one_time" },
            )
            && is(
                params,
                "recurring.interval",
                recurring.map_or("", |r| r.interval.name()),
            )
            && is(params, "recurring.usage_type", price.usage_type())
            && is(
                params,
                "recurring.meter",
                recurring.and_then(|r| r.meter.as_deref()).unwrap_or_default(),
            )
            && (keys.is_empty() || price.lookup_key.as_deref().is_some_and(|key| keys.contains(&key)))
    };
    let rows = state.prices.iter().rev().filter(|(_, price)| wanted(price));
    let rows = rows.map(|(id, price)| (id.to_owned(), price.render())).collect();
    list::page("/v1/prices", params, rows)
}

pub(crate) fn recurring(state: &State, params: &Param) -> Result<Option<Recurring>, Failure> {
    let Some(recurring) = params.get("recurring") else {
        return Ok(None);
    };
    let interval = Interval::parse(recurring.text("interval").unwrap_or_default());
    let interval = interval.ok_or_else(|| Failure::invalid("Invalid interval").param("recurring[interval]"))?;
    let meter = recurring.filled("meter").map(str::to_owned);
    match (recurring.text("usage_type"), &meter) {
        (Some("metered"), None) => {
            // Stripe removed usage records: since 2025-03-31.basil a metered price needs a meter.
            let message = "You must specify `recurring[meter]` for a price with `recurring[usage_type]=metered`.";
            return Err(Failure::invalid(message)
                .code("parameter_missing")
                .param("recurring[meter]"));
        }
        (usage_type, Some(_)) if usage_type != Some("metered") => {
            let message = "`recurring[meter]` can only be used with `recurring[usage_type]=metered`.";
            return Err(Failure::invalid(message).param("recurring[meter]"));
        }
        _ => {}
    }
    if let Some(meter) = meter
        .as_deref()
        .filter(|id| !state.meters.get(id).is_some_and(|meter| meter.active))
    {
        return Err(Failure::no_such("active meter", meter).param("recurring[meter]"));
    }
    if recurring.has("trial_period_days") {
        return Err(Failure::gap("a price with recurring[trial_period_days]"));
    }
    let count = recurring.int("interval_count").unwrap_or(1);
    if !(1..=36).contains(&count) {
        return Err(Failure::invalid("Invalid interval count").param("recurring[interval_count]"));
    }
    Ok(Some(Recurring { interval, count, meter }))
}

/// With `transfer_lookup_key`, the price that has the key loses it.
pub(crate) fn lookup_key(state: &mut State, params: &Param, id: &str) -> Result<Option<String>, Failure> {
    let Some(key) = params.filled("lookup_key") else {
        return Ok(None);
    };
    let transfer = params.flag("transfer_lookup_key").unwrap_or(false);
    let holder = state
        .prices
        .iter_mut()
        .find(|price| price.id != id && price.lookup_key.as_deref() == Some(key));
    if let Some(holder) = holder {
        if !transfer {
            let message = format!("A price (`{}`) already uses that lookup key.", holder.id);
            return Err(Failure::invalid(message).param("lookup_key"));
        }
        let before = holder.render();
        holder.lookup_key = None;
        let after = holder.render();
        let previous = event::changed(&before, &after);
        state.emit("price.updated", after, previous);
    }
    Ok(Some(key.to_owned()))
}
