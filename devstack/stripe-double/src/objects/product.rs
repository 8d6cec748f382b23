//! A product, which gives prices their name.

use serde_json::{Value, json};

use crate::form::Param;
use crate::objects::metadata::{Metadata, merge_metadata};

#[derive(Clone, Debug)]
pub(crate) struct Product {
    pub id: String,
    pub name: String,
    pub description: Option<String>,
    pub unit_label: Option<String>,
    pub active: bool,
    pub metadata: Metadata,
    pub created: i64,
    pub updated: i64,
    pub deleted: bool,
}

impl Product {
    pub(crate) fn apply(&mut self, params: &Param) {
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

    pub(crate) fn render(&self) -> Value {
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
