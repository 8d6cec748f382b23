//! The API of subscription items: the same changes as with `items` of a subscription, one at a time.

use serde_json::{Value, json};

use crate::api::call::Call;
use crate::billing::change::{self, Change};
use crate::billing::payment_behavior::Behavior;
use crate::billing::{items, strict};
use crate::failure::Failure;
use crate::form::Param;
use crate::list;
use crate::objects::item::Item;
use crate::objects::prorate::Prorate;
use crate::objects::subscription::Subscription;
use crate::state::State;

pub(crate) const UNDERSTOOD: &[&str] = &[
    "subscription",
    "price",
    "quantity",
    "metadata",
    "payment_behavior",
    "proration_behavior",
    "proration_date",
    "off_session",
    "clear_usage",
];

pub(crate) fn create(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let subscription = call.params.text("subscription").unwrap_or_default().to_owned();
    let subscription = state
        .subscription(&subscription)
        .map_err(|_| Failure::no_such("subscription", &subscription))?
        .clone();
    let given = only(call.params, &["price", "quantity", "metadata"], None);
    let items = items::changed(state, &subscription.items, &[&given], &subscription.currency, call.now)?;
    let id = items.last().map(|item| item.id.clone()).unwrap_or_default();
    apply(state, call, subscription, items)?;
    retrieve(state, &Call { id: &id, ..*call })
}

pub(crate) fn retrieve(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let (subscription, item) = find(state, call.id)?;
    let price = state
        .prices
        .get(&item.price)
        .ok_or_else(|| Failure::not_found("price", &item.price))?;
    Ok(item.render(&subscription.id, price))
}

pub(crate) fn update(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let subscription = find(state, call.id)?.0.clone();
    let given = only(call.params, &["price", "quantity", "metadata"], Some(("id", call.id)));
    let items = items::changed(state, &subscription.items, &[&given], &subscription.currency, call.now)?;
    apply(state, call, subscription, items)?;
    retrieve(state, call)
}

pub(crate) fn delete(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let subscription = find(state, call.id)?.0.clone();
    let mut given = only(call.params, &[], Some(("id", call.id)));
    if let Param::Map(map) = &mut given {
        map.insert("deleted".to_owned(), Param::Text("true".to_owned()));
    }
    let items = items::changed(state, &subscription.items, &[&given], &subscription.currency, call.now)?;
    apply(state, call, subscription, items)?;
    Ok(json!({ "id": call.id, "object": "subscription_item", "deleted": true }))
}

pub(crate) fn list(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let id = call.params.text("subscription").unwrap_or_default();
    let subscription = state
        .subscription(id)
        .map_err(|_| Failure::no_such("subscription", id).param("subscription"))?;
    let render = |item: &Item| Some((item.id.clone(), item.render(id, state.prices.get(&item.price)?)));
    let rows = subscription.items.iter().rev().filter_map(render).collect();
    list::page("/v1/subscription_items", call.params, rows)
}

fn apply(state: &mut State, call: &Call, subscription: Subscription, items: Vec<Item>) -> Result<(), Failure> {
    let change = Change {
        items,
        behavior: Behavior::of(call.params),
        prorate: Prorate::of(call.params.text("proration_behavior")),
        at: call.params.int("proration_date").unwrap_or(call.now),
        reset_anchor: false,
        trial_end: None,
    };
    strict::check_items(state, &subscription, &change.items, change.behavior, change.prorate);
    change::apply(state, &subscription.clone(), subscription, change)
}

fn find<'a>(state: &'a State, id: &str) -> Result<(&'a Subscription, &'a Item), Failure> {
    let subscriptions = state.subscriptions.iter().map(|(_, subscription)| subscription);
    let mut items =
        subscriptions.flat_map(|subscription| subscription.items.iter().map(move |item| (subscription, item)));
    items
        .find(|(_, item)| item.id == id)
        .ok_or_else(|| Failure::not_found("subscription_item", id))
}

fn only(params: &Param, names: &[&str], and: Option<(&str, &str)>) -> Param {
    let kept = names
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), params.get(name)?.clone())));
    let and = and.map(|(name, value)| (name.to_owned(), Param::Text(value.to_owned())));
    Param::Map(kept.chain(and).collect())
}
