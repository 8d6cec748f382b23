//! `expand[]`: replaces ids by objects and adds the fields that are shown only on demand.

use serde_json::Value;

use crate::failure::Failure;
use crate::form::Param;
use crate::list;
use crate::state::State;

/// Stripe's limits.
const DEPTH_MAX: usize = 4;

const PATHS_MAX: usize = 20;

pub(crate) fn expand(state: &State, object: &mut Value, params: &Param) -> Result<(), Failure> {
    let paths = params.texts("expand");
    if paths.len() > PATHS_MAX {
        return Err(Failure::invalid("You can expand at most 20 paths.").param("expand"));
    }
    for path in paths {
        let names: Vec<_> = path.split('.').collect();
        let depth = names.iter().filter(|name| **name != "data").count();
        if depth > DEPTH_MAX {
            let message = format!("You cannot expand more than {DEPTH_MAX} levels of a property ({path}).");
            return Err(Failure::invalid(message).param("expand"));
        }
        step(state, object, &names).map_err(|name| {
            let message = format!("This property cannot be expanded ({name}). You asked for {path}.");
            Failure::invalid(message)
                .code("property_not_expandable")
                .param("expand")
        })?;
    }
    Ok(())
}

fn step(state: &State, object: &mut Value, names: &[&str]) -> Result<(), String> {
    let Some((name, rest)) = names.split_first() else {
        return Ok(());
    };
    if *name == "data" && object["object"] == "list" {
        let elements = object["data"].as_array_mut().into_iter().flatten();
        return elements.into_iter().try_for_each(|element| step(state, element, rest));
    }
    if *name == "currency_options" && object["object"] == "price" {
        return currency_options(state, object, rest);
    }
    if let Some(shown) = on_demand(state, object, name) {
        object[*name] = shown;
    }
    let Some(value) = object.get_mut(*name) else {
        return Err((*name).to_owned());
    };
    if let Some(id) = value.as_str() {
        *value = by_id(state, id).ok_or((*name).to_owned())?;
    }
    match value {
        Value::Null => Ok(()),
        Value::Object(_) => step(state, value, rest),
        Value::Array(elements) => elements.iter_mut().try_for_each(|element| {
            if let Some(found) = element.as_str().and_then(|id| by_id(state, id)) {
                *element = found;
            }
            step(state, element, rest)
        }),
        _ => Err((*name).to_owned()),
    }
}

/// The options of a price. Their tiers are shown only when they are expanded, too: `currency_options.eur.tiers`.
fn currency_options(state: &State, object: &mut Value, names: &[&str]) -> Result<(), String> {
    let price = object["id"].as_str().and_then(|id| state.prices.get(id));
    let price = price.ok_or("currency_options")?;
    if object["currency_options"].is_null() {
        object["currency_options"] = price.render_options();
    }
    match names {
        [] => Ok(()),
        [currency, rest @ ..] => match (price.pricing_in(currency), rest) {
            (Some(_), []) => Ok(()),
            (Some(pricing), ["tiers"]) => {
                object["currency_options"][*currency]["tiers"] = pricing.render_tiers();
                Ok(())
            }
            (Some(_), [other, ..]) => Err((*other).to_owned()),
            (None, _) => Err((*currency).to_owned()),
        },
    }
}

/// Fields that are shown only when they are expanded.
fn on_demand(state: &State, object: &Value, name: &str) -> Option<Value> {
    let id = object["id"].as_str()?;
    Some(match (object["object"].as_str()?, name) {
        ("price", "tiers") => state.prices.get(id)?.pricing.render_tiers(),
        ("invoice", "confirmation_secret") => state.invoices.get(id)?.render_confirmation_secret(),
        ("invoice", "payments") => state.invoices.get(id)?.render_payments(state),
        ("checkout.session", "line_items") => {
            let url = format!("/v1/checkout/sessions/{id}/line_items");
            list::whole(&url, state.sessions.get(id)?.render_items(state))
        }
        ("customer", "subscriptions") => {
            let theirs = state
                .subscriptions
                .iter()
                .rev()
                .filter(|(_, s)| s.customer == id && !s.status.has_ended());
            let url = format!("/v1/customers/{id}/subscriptions");
            list::whole(
                &url,
                theirs.map(|(_, subscription)| subscription.render(state)).collect(),
            )
        }
        _ => return None,
    })
}

pub(crate) fn by_id(state: &State, id: &str) -> Option<Value> {
    // The longest prefix comes first: the id of a schedule begins like that of a subscription.
    if id.starts_with("sub_sched_") {
        return state.schedules.get(id).map(|schedule| schedule.render());
    }
    match id.split('_').next()? {
        "cus" => state.customers.get(id).map(|customer| customer.render()),
        "sub" => state
            .subscriptions
            .get(id)
            .map(|subscription| subscription.render(state)),
        "seti" => state
            .subscriptions
            .iter()
            .filter_map(|(_, subscription)| Some((subscription, subscription.pending_setup(state)?)))
            .find(|(_, intent)| intent.id == id)
            .map(|(subscription, intent)| intent.render(&subscription.customer)),
        "in" => state.invoices.get(id).map(|invoice| invoice.render(state)),
        "pm" => state
            .customers
            .iter()
            .find_map(|(_, customer)| customer.render_payment_method(id)),
        "cn" => state.credit_notes.get(id).map(|note| note.render(&state.url)),
        "di" => state.discounts.get(id).map(|discount| discount.render()),
        "promo" => state.promotion_codes.get(id).map(|code| code.render()),
        "cbtxn" => state
            .balance_transactions
            .get(id)
            .map(|transaction| transaction.render()),
        "pi" => state.render_payment(id).ok(),
        "ch" => state.render_charge(id),
        "re" => state.refunds.get(id).map(|refund| refund.render()),
        "dp" => state.disputes.get(id).map(|dispute| dispute.render()),
        "price" => state.prices.get(id).map(|price| price.render()),
        _ => {
            let product = state.products.get(id).map(|product| product.render());
            product.or_else(|| state.coupons.get(id).map(|coupon| coupon.render(state.now())))
        }
    }
}
