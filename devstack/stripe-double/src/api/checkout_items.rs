//! The line items of a new checkout session.

use crate::billing::items;
use crate::failure::Failure;
use crate::form::Param;
use crate::objects::session::SessionItem;
use crate::state::State;

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
