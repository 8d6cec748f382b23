//! The line items of a new checkout session.

use crate::billing::items::{self, check_currency};
use crate::failure::Failure;
use crate::form::Param;
use crate::money::CHARGE_MIN;
use crate::objects::session::SessionItem;
use crate::state::State;

/// The largest charge: eight digits.
const CHARGE_MAX: i64 = 99_999_999;

/// The items are sold in this currency, the customer can pay in it, and what is due at once can be charged.
pub(crate) fn check_amount(
    state: &State,
    customer: Option<&str>,
    items: &[SessionItem],
    currency: &str,
    has_trial: bool,
) -> Result<(), Failure> {
    if let Some(customer) = customer {
        state.check_currency(customer, currency)?;
    }
    let mut due: i64 = 0;
    for (n, item) in items.iter().enumerate() {
        check_currency(state, &item.price, currency).map_err(|failure| failure.param(format!("line_items[{n}]")))?;
        let Some(price) = state.prices.get(&item.price) else {
            continue;
        };
        if !price.is_metered() && !has_trial {
            let costs = price.costs(currency, item.quantity.unwrap_or(1));
            due = costs.iter().fold(due, |due, cost| due.saturating_add(cost.amount));
        }
    }
    match due {
        1..CHARGE_MIN => Err(Failure::amount_too_small()),
        _ if due > CHARGE_MAX => Err(Failure::amount_too_large()),
        _ => Ok(()),
    }
}

pub(crate) fn line_items(state: &mut State, params: &Param) -> Result<Vec<SessionItem>, Failure> {
    let mut items = Vec::new();
    for (n, item) in params.list("line_items").into_iter().enumerate() {
        let here = |name: &str| format!("line_items[{n}][{name}]");
        if let Some(other) = item
            .names()
            .into_iter()
            .find(|name| !["price", "quantity"].contains(name))
        {
            return Err(Failure::gap(&here(other)));
        }
        let price = items::recurring_price(state, item.text("price").unwrap_or_default());
        let price = price.map_err(|failure| failure.param(here("price")))?;
        let (metered, quantity) = (
            state.prices.get(&price).is_some_and(|price| price.is_metered()),
            item.int("quantity"),
        );
        if metered && quantity.is_some() {
            let message = "Quantity should not be specified where usage_type is `metered`.";
            return Err(Failure::invalid(message).param(here("quantity")));
        }
        if !metered && quantity.is_none() {
            let message = "Quantity is required. Add `quantity` to `line_items`.";
            return Err(Failure::invalid(message).param(here("quantity")));
        }
        let id = state.ids.next("li");
        items.push(SessionItem { id, price, quantity });
    }
    if items.is_empty() {
        let message = "You must specify `line_items` in `subscription` mode.";
        return Err(Failure::invalid(message).code("parameter_missing").param("line_items"));
    }
    Ok(items)
}
