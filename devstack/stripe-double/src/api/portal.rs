//! The API of the billing portal's sessions.

use serde_json::{Value, json};

use crate::api::call::Call;
use crate::failure::Failure;
use crate::objects::portal_session::PortalSession;
use crate::state::State;

pub(crate) const UNDERSTOOD: &[&str] = &["customer", "return_url", "locale"];

pub(crate) fn create(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let Some(customer) = call.params.filled("customer") else {
        return Err(Failure::invalid("Missing required param: customer.")
            .code("parameter_missing")
            .param("customer"));
    };
    let customer = state.living_customer(customer)?.id.clone();
    if !state.settings.portal_is_configured {
        return Err(Failure::portal_not_configured());
    }
    let return_url = call.params.filled("return_url").map(str::to_owned);
    let id = state.ids.next("bps");
    let session = PortalSession {
        customer: customer.clone(),
        return_url: return_url.clone(),
    };
    state.portal_sessions.insert(&id, session);
    Ok(json!({
        "id": id, "object": "billing_portal.session", "configuration": "bpc_double", "created": call.now,
        "customer": customer, "flow": null, "livemode": false, "locale": null, "on_behalf_of": null,
        "return_url": return_url, "url": format!("{}/p/session/{id}", state.url),
    }))
}
