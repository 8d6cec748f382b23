//! The API of tax settings: reading them. The double has one tax rate, which a test sets.

use serde_json::{Value, json};

use crate::api::call::Call;
use crate::failure::Failure;
use crate::form::Param;
use crate::state::State;

pub(crate) fn settings(state: &mut State, _: &Call) -> Result<Value, Failure> {
    let is_active = state.settings.tax_basis_points.is_some();
    let office = json!({ "address": { "city": null, "country": "US", "line1": null, "line2": null, "postal_code": null, "state": null } });
    let (active, pending) = (json!({}), json!({ "missing_fields": ["head_office"] }));
    Ok(json!({
        "object": "tax.settings", "defaults": { "provider": "stripe", "tax_behavior": "exclusive", "tax_code": null },
        "head_office": if is_active { office } else { Value::Null }, "livemode": false,
        "status": if is_active { "active" } else { "pending" },
        "status_details": if is_active { json!({ "active": active }) } else { json!({ "pending": pending }) },
    }))
}

/// `automatic_tax` of a call; none: the call does not say. Needs tax settings.
pub(crate) fn automatic(state: &State, params: &Param) -> Result<Option<bool>, Failure> {
    let enabled = params.flag("automatic_tax.enabled");
    if enabled == Some(true) && state.settings.tax_basis_points.is_none() {
        return Err(Failure::tax_not_set_up());
    }
    Ok(enabled)
}

/// Tax depends on where the customer is.
pub(crate) fn check_location(state: &State, customer: &str) -> Result<(), Failure> {
    let customer = state.customers.get(customer);
    match customer.and_then(|customer| customer.country()) {
        Some(_) => Ok(()),
        None => Err(Failure::tax_location_invalid()),
    }
}
