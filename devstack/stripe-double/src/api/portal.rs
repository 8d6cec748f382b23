//! The API of the billing portal: its configurations and sessions.

use serde_json::{Value, json};

use crate::api::call::Call;
use crate::failure::Failure;
use crate::list::{self, is};
use crate::objects::event;
use crate::objects::portal_configuration::PortalConfiguration;
use crate::objects::portal_session::PortalSession;
use crate::state::State;

pub(crate) const UNDERSTOOD: &[&str] = &["customer", "return_url", "locale", "configuration"];

pub(crate) const CONFIGURATION_UNDERSTOOD: &[&str] = &["features", "name", "default_return_url", "metadata"];

pub(crate) const CONFIGURATION_UPDATE_UNDERSTOOD: &[&str] =
    &["features", "name", "default_return_url", "metadata", "active"];

pub(crate) fn create(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let Some(customer) = call.params.filled("customer") else {
        return Err(Failure::invalid("Missing required param: customer.")
            .code("parameter_missing")
            .param("customer"));
    };
    let customer = state.living_customer(customer)?.id.clone();
    let configuration = state.portal_configuration(call.params.filled("configuration"))?;
    let return_url = call.params.filled("return_url").or(configuration.return_url());
    let session = PortalSession {
        customer,
        return_url: return_url.map(str::to_owned),
        lets_cancel: configuration.lets_cancel(),
    };
    let configuration = configuration.id.clone();
    let id = state.ids.next("bps");
    let object = json!({
        "id": id, "object": "billing_portal.session", "configuration": configuration, "created": call.now,
        "customer": session.customer, "flow": null, "livemode": false, "locale": null, "on_behalf_of": null,
        "return_url": session.return_url, "url": format!("{}/p/session/{id}", state.url),
    });
    state.portal_sessions.insert(&id, session);
    Ok(object)
}

pub(crate) fn configure(state: &mut State, call: &Call) -> Result<Value, Failure> {
    features(call)?;
    let id = state.ids.next("bpc");
    let configuration = PortalConfiguration::new(&id, call.params, call.now);
    let object = configuration.render();
    state.portal_configurations.insert(&id, configuration);
    state.emit("billing_portal.configuration.created", object.clone(), None);
    Ok(object)
}

pub(crate) fn retrieve_configuration(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let configuration = state.portal_configurations.get(call.id);
    configuration
        .map(PortalConfiguration::render)
        .ok_or_else(|| Failure::not_found("configuration", call.id))
}

pub(crate) fn update_configuration(state: &mut State, call: &Call) -> Result<Value, Failure> {
    features(call)?;
    let before = retrieve_configuration(state, call)?;
    if before["is_default"] == true && call.params.flag("active") == Some(false) {
        return Err(Failure::invalid("You can not deactivate the default configuration.").param("active"));
    }
    if let Some(configuration) = state.portal_configurations.get_mut(call.id) {
        configuration.apply(call.params, call.now);
    }
    let after = retrieve_configuration(state, call)?;
    if let Some(previous) = event::changed(&before, &after) {
        state.emit("billing_portal.configuration.updated", after.clone(), Some(previous));
    }
    Ok(after)
}

pub(crate) fn list_configurations(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let wanted = |configuration: &PortalConfiguration| {
        is(call.params, "active", &configuration.active.to_string())
            && is(call.params, "is_default", &configuration.is_default.to_string())
    };
    let rows = state.portal_configurations.iter().rev().filter(|(_, row)| wanted(row));
    let rows = rows.map(|(id, row)| (id.to_owned(), row.render())).collect();
    list::page("/v1/billing_portal/configurations", call.params, rows)
}

/// The double's portal shows no plans, and cancels at the end of the period.
fn features(call: &Call) -> Result<(), Failure> {
    if call.params.flag("features.subscription_update.enabled") == Some(true) {
        return Err(Failure::gap("a portal in which customers change their plan"));
    }
    if call.params.text("features.subscription_cancel.mode") == Some("immediately") {
        return Err(Failure::gap("a portal in which customers cancel immediately"));
    }
    Ok(())
}
