//! Products: names for prices.

use serde_json::{Value, json};

use super::events;
use super::failure::Failure;
use super::form::{Param, merge_metadata};
use super::routes::Call;
use super::state::{Metadata, State};
use super::table::{self, in_range, is};

#[derive(Clone, Debug)]
pub(super) struct Product {
    pub id: String,
    pub name: String,
    description: Option<String>,
    unit_label: Option<String>,
    active: bool,
    metadata: Metadata,
    created: i64,
    updated: i64,
    deleted: bool,
}

pub(super) const UNDERSTOOD: &[&str] = &["id", "name", "description", "unit_label", "active", "metadata"];

pub(super) fn create(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let product = make(state, call.params, call.now)?;
    retrieve(state, &Call { id: &product, ..*call })
}

/// Makes a product of `POST /v1/products` or of a price's `product_data`.
pub(super) fn make(state: &mut State, params: &Param, now: i64) -> Result<String, Failure> {
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

pub(super) fn retrieve(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let product = state.products.get(call.id);
    product
        .map(Product::render)
        .ok_or_else(|| Failure::not_found("product", call.id))
}

pub(super) fn update(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let product = state.products.get_mut(call.id).filter(|product| !product.deleted);
    let product = product.ok_or_else(|| Failure::not_found("product", call.id))?;
    let before = product.render();
    product.apply(call.params);
    product.updated = call.now;
    let after = product.render();
    if let Some(previous) = events::changed(&before, &after) {
        state.emit("product.updated", after.clone(), Some(previous));
    }
    Ok(after)
}

pub(super) fn delete(state: &mut State, call: &Call) -> Result<Value, Failure> {
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

pub(super) fn list(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let ids = call.params.texts("ids");
    let wanted = |product: &Product| {
        !product.deleted
            && in_range(call.params, "created", product.created)
            && is(call.params, "active", &product.active.to_string())
            && (ids.is_empty() || ids.contains(&product.id.as_str()))
    };
    let rows = state.products.iter().rev().filter(|(_, product)| wanted(product));
    let rows = rows.map(|(id, product)| (id.to_owned(), product.render())).collect();
    table::page("/v1/products", call.params, rows)
}

impl Product {
    fn apply(&mut self, params: &Param) {
        if let Some(name) = params.filled("name") {
            self.name = name.to_owned();
        }
        for (name, field) in [
            ("description", &mut self.description),
            ("unit_label", &mut self.unit_label),
        ] {
            if let Some(text) = params.text(name) {
                *field = Some(text.to_owned()).filter(|text| !text.is_empty());
            }
        }
        self.active = params.flag("active").unwrap_or(self.active);
        merge_metadata(&mut self.metadata, params);
    }

    pub fn render(&self) -> Value {
        if self.deleted {
            return json!({ "id": self.id, "object": "product", "deleted": true });
        }
        json!({
            "id": self.id, "object": "product", "active": self.active, "created": self.created, "default_price": null,
            "description": self.description, "images": [], "livemode": false, "marketing_features": [],
            "metadata": self.metadata, "name": self.name, "package_dimensions": null, "shippable": null,
            "statement_descriptor": null, "tax_code": null, "type": "service", "unit_label": self.unit_label,
            "updated": self.updated, "url": null,
        })
    }
}
