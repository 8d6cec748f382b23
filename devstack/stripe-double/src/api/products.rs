//! The API of products.

use serde_json::Value;

use crate::api::call::Call;
use crate::failure::Failure;
use crate::form::Param;
use crate::list::{self, in_range, is};
use crate::objects::event;
use crate::objects::metadata::Metadata;
use crate::objects::product::Product;
use crate::state::State;

pub(crate) const UNDERSTOOD: &[&str] = &["id", "name", "description", "unit_label", "active", "metadata"];

pub(crate) fn create(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let product = make(state, call.params, call.now)?;
    retrieve(state, &Call { id: &product, ..*call })
}

/// Creates a product, for `POST /v1/products` or for the `product_data` of a price.
pub(crate) fn make(state: &mut State, params: &Param, now: i64) -> Result<String, Failure> {
    let id = params
        .filled("id")
        .map(str::to_owned)
        .unwrap_or_else(|| state.ids.next("prod"));
    if state.products.get(&id).is_some() {
        let failure = Failure::invalid(format!("Product already exists with id: {id}"));
        return Err(failure.code("resource_already_exists").param("id"));
    }
    let mut product = Product {
        id: id.clone(),
        name: String::new(),
        description: None,
        unit_label: None,
        active: true,
        metadata: Metadata::new(),
        created: now,
        updated: now,
        deleted: false,
    };
    product.apply(params);
    let object = product.render();
    state.products.insert(&id, product);
    state.emit("product.created", object, None);
    Ok(id)
}

pub(crate) fn retrieve(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let product = state.products.get(call.id);
    product
        .map(Product::render)
        .ok_or_else(|| Failure::not_found("product", call.id))
}

pub(crate) fn update(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let product = state.products.get_mut(call.id).filter(|product| !product.deleted);
    let product = product.ok_or_else(|| Failure::not_found("product", call.id))?;
    let before = product.render();
    product.apply(call.params);
    product.updated = call.now;
    let after = product.render();
    if let Some(previous) = event::changed(&before, &after) {
        state.emit("product.updated", after.clone(), Some(previous));
    }
    Ok(after)
}

pub(crate) fn delete(state: &mut State, call: &Call) -> Result<Value, Failure> {
    if state.prices.iter().any(|(_, price)| price.product == call.id) {
        let message = "This product cannot be deleted because it has one or more user-created prices.";
        return Err(Failure::invalid(message));
    }
    let product = state.products.get_mut(call.id).filter(|product| !product.deleted);
    let product = product.ok_or_else(|| Failure::not_found("product", call.id))?;
    let before = product.render();
    product.deleted = true;
    state.emit("product.deleted", before, None);
    retrieve(state, call)
}

pub(crate) fn list(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let ids = call.params.texts("ids");
    let wanted = |product: &Product| {
        !product.deleted
            && in_range(call.params, "created", product.created)
            && is(call.params, "active", &product.active.to_string())
            && (ids.is_empty() || ids.contains(&product.id.as_str()))
    };
    let rows = state.products.iter().rev().filter(|(_, product)| wanted(product));
    let rows = rows.map(|(id, product)| (id.to_owned(), product.render())).collect();
    list::page("/v1/products", call.params, rows)
}
