//! The items of a subscription, as `items` of a call changes them.

use crate::failure::Failure;
use crate::form::Param;
use crate::objects::item::Item;
use crate::objects::metadata::{Metadata, merge_metadata};
use crate::state::State;

/// Stripe's limit.
const ITEMS_MAX: usize = 20;

/// Applies a list of items to `current`: one with an `id` changes or removes that item, one without is added. New and changed items
/// that had no period in `current` have none yet. `currency`: of the subscription.
pub(crate) fn changed(
    state: &mut State,
    current: &[Item],
    given: &[&Param],
    currency: &str,
    now: i64,
) -> Result<Vec<Item>, Failure> {
    let mut items = current.to_vec();
    for (n, params) in given.iter().enumerate() {
        let here = |name: &str| format!("items[{n}][{name}]");
        understood(params)?;
        let price = match params.filled("price") {
            Some(price) => Some(recurring_price(state, price).map_err(|failure| failure.param(here("price")))?),
            None => None,
        };
        let quantity = params.int("quantity");
        if quantity.is_some_and(|quantity| quantity < 0) {
            return Err(Failure::invalid("This value must be greater than or equal to 0.").param(here("quantity")));
        }
        let Some(id) = params.filled("id") else {
            let Some(price) = price else {
                return Err(Failure::invalid("Missing required param: items[][price].")
                    .code("parameter_missing")
                    .param(here("price")));
            };
            let mut metadata = Metadata::new();
            merge_metadata(&mut metadata, params);
            let id = state.ids.next("si");
            let quantity = Some(quantity.unwrap_or(1));
            let (created, usage_from) = (now, now);
            items.push(Item {
                id,
                price,
                quantity,
                created,
                metadata,
                period_start: 0,
                period_end: 0,
                usage_from,
            });
            continue;
        };
        let Some(at) = items.iter().position(|item| item.id == id) else {
            return Err(Failure::no_such("subscription_item", id).param(here("id")));
        };
        if params.flag("deleted") == Some(true) {
            items.remove(at);
            continue;
        }
        let item = &mut items[at];
        if let Some(price) = price.filter(|price| *price != item.price) {
            (item.price, item.usage_from) = (price, now);
        }
        item.quantity = quantity.or(item.quantity).or(Some(1));
        merge_metadata(&mut item.metadata, params);
    }
    check(state, items, given, currency)
}

fn check(state: &State, mut items: Vec<Item>, given: &[&Param], currency: &str) -> Result<Vec<Item>, Failure> {
    if items.is_empty() {
        return Err(Failure::invalid("A subscription must have at least one item.").param("items"));
    }
    if items.len() > ITEMS_MAX {
        return Err(Failure::invalid("A subscription has at most 20 items.").param("items"));
    }
    let mut seen = std::collections::HashSet::new();
    if let Some(twice) = items.iter().find(|item| !seen.insert(item.price.as_str())) {
        let message = format!(
            "Cannot add multiple subscription items with the same plan: {}",
            twice.price
        );
        return Err(Failure::invalid(message).param("items"));
    }
    for item in &items {
        check_currency(state, &item.price, currency).map_err(|failure| failure.param("items"))?;
    }
    for item in &mut items {
        if state.prices.get(&item.price).is_some_and(|price| price.is_metered()) {
            let priced_by =
                |params: &&&Param| params.text("price") == Some(&item.price) || params.text("id") == Some(&item.id);
            if given
                .iter()
                .find(priced_by)
                .is_some_and(|params| params.has("quantity"))
            {
                let message = "You cannot set the quantity of an item whose price is metered.";
                return Err(Failure::invalid(message).param("items"));
            }
            item.quantity = None;
        }
    }
    Ok(items)
}

/// Refuses a price that is not sold in the currency.
pub(crate) fn check_currency(state: &State, price: &str, currency: &str) -> Result<(), Failure> {
    match state.prices.get(price) {
        Some(price) if price.pricing_in(currency).is_none() => {
            Err(Failure::price_in_other_currency(&price.currencies(), currency))
        }
        _ => Ok(()),
    }
}

/// An active recurring price.
pub(crate) fn recurring_price(state: &State, id: &str) -> Result<String, Failure> {
    let price = state.prices.get(id).ok_or_else(|| Failure::no_such("price", id))?;
    if price.recurring.is_none() {
        let message =
            "The price specified is set to `type=one_time` but this field only accepts prices with `type=recurring`.";
        return Err(Failure::invalid(message));
    }
    if !price.is_active() {
        return Err(Failure::price_inactive());
    }
    Ok(price.id.clone())
}

fn understood(params: &Param) -> Result<(), Failure> {
    const UNDERSTOOD: [&str; 6] = ["id", "price", "quantity", "metadata", "deleted", "clear_usage"];
    match params.names().into_iter().find(|name| !UNDERSTOOD.contains(name)) {
        Some(other) => Err(Failure::gap(&format!("items[][{other}]"))),
        None => Ok(()),
    }
}
