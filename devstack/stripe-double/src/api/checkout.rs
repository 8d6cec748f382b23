//! The API of checkout sessions.

use serde_json::Value;

use crate::api::call::Call;
use crate::api::checkout_items::{check_amount, line_items};
use crate::api::{customers, subscription_params, tax};
use crate::billing::expiry::expire_session;
use crate::billing::items;
use crate::billing::payment_behavior::Behavior;
use crate::billing::start::{self, New};
use crate::failure::Failure;
use crate::form::Param;
use crate::list::{self, in_range, is};
use crate::objects::customer::Address;
use crate::objects::metadata::{Metadata, merge_metadata};
use crate::objects::session::{Session, SessionItem, Status};
use crate::objects::subscription::WithoutCard;
use crate::options::Card;
use crate::state::State;

const OPEN_FOR_S: i64 = 24 * 3_600;

const OPEN_AT_LEAST_S: i64 = 30 * 60;

pub(crate) const UNDERSTOOD: &[&str] = &[
    "mode",
    "line_items",
    "success_url",
    "cancel_url",
    "customer",
    "currency",
    "customer_email",
    "client_reference_id",
    "metadata",
    "subscription_data",
    "expires_at",
    "ui_mode",
    "locale",
    "allow_promotion_codes",
    "billing_address_collection",
    "customer_update",
    "payment_method_collection",
    "discounts",
    "automatic_tax",
    "tax_id_collection",
];

const SUBSCRIPTION_UNDERSTOOD: [&str; 5] = [
    "metadata",
    "description",
    "trial_end",
    "trial_period_days",
    "trial_settings",
];

pub(crate) fn create(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let params = call.params;
    let required = |name: &str| {
        let missing = || {
            Failure::invalid(format!("Missing required param: {name}."))
                .code("parameter_missing")
                .param(name)
        };
        params.filled(name).map(str::to_owned).ok_or_else(missing)
    };
    if params.text("mode") != Some("subscription") {
        return Err(Failure::gap("a checkout session that is not for a subscription"));
    }
    if params.text("ui_mode").is_some_and(|mode| mode != "hosted_page") {
        return Err(Failure::gap("a ui_mode other than hosted_page"));
    }
    let success_url = required("success_url")?;
    let customer = params.filled("customer").map(str::to_owned);
    if let Some(customer) = &customer {
        state.living_customer(customer)?;
        if params.has("customer_email") {
            return Err(Failure::invalid(
                "You may only specify one of these parameters: customer, customer_email.",
            ));
        }
    }
    let expires_at = params.int("expires_at").unwrap_or(call.now + OPEN_FOR_S);
    if !(call.now + OPEN_AT_LEAST_S - 5..=call.now + OPEN_FOR_S).contains(&expires_at) {
        let message = "The `expires_at` timestamp must be from 30 minutes to 24 hours after the session is created.";
        return Err(Failure::invalid(message).param("expires_at"));
    }
    let data = params.get("subscription_data").cloned().unwrap_or_default();
    if let Some(other) = data
        .names()
        .into_iter()
        .find(|name| !SUBSCRIPTION_UNDERSTOOD.contains(name))
    {
        return Err(Failure::gap(&format!("subscription_data[{other}]")));
    }
    subscription_params::trial_end(&data, call.now)?;
    let (mut metadata, mut subscription_metadata) = (Metadata::new(), Metadata::new());
    merge_metadata(&mut metadata, params);
    merge_metadata(&mut subscription_metadata, &data);
    let items = line_items(state, params)?;
    let first = items.first().map_or("", |item| item.price.as_str());
    let currency = state.new_currency(params.filled("currency"), customer.as_deref(), first);
    let has_trial = data.has("trial_period_days") || data.has("trial_end");
    check_amount(state, customer.as_deref(), &items, &currency, has_trial)?;
    let allows_codes = params.flag("allow_promotion_codes") == Some(true);
    if allows_codes && params.has("discounts") {
        let message = "You may only specify one of these parameters: allow_promotion_codes, discounts.";
        return Err(Failure::invalid(message));
    }
    let discounts = state.given_discounts(params, customer.as_deref(), &currency)?;
    let automatic_tax = tax::automatic(state, params)? == Some(true);
    let saves_address = params.text("customer_update.address") == Some("auto");
    if let Some(customer) = customer.as_deref().filter(|_| automatic_tax && !saves_address) {
        tax::check_location(state, customer).map_err(|_| Failure::checkout_location_missing())?;
    }
    let id = format!("cs_test_{}", state.ids.next("x").trim_start_matches("x_"));
    let session = Session {
        id: id.clone(),
        status: Status::Open,
        customer,
        email: params.filled("customer_email").map(str::to_owned),
        items,
        currency,
        success_url,
        cancel_url: params.filled("cancel_url").map(str::to_owned),
        created: call.now,
        expires_at,
        client_reference_id: params.filled("client_reference_id").map(str::to_owned),
        metadata,
        subscription_metadata,
        description: data.filled("description").map(str::to_owned),
        trial_days: data.int("trial_period_days"),
        trial_end: data.int("trial_end"),
        without_card: subscription_params::without_card(&data).unwrap_or(WithoutCard::CreateInvoice),
        discounts,
        allows_codes,
        automatic_tax,
        subscription: None,
        invoice: None,
    };
    state.sessions.insert(&id, session);
    retrieve(state, &Call { id: &id, ..*call })
}

pub(crate) fn retrieve(state: &mut State, call: &Call) -> Result<Value, Failure> {
    Ok(state.session(call.id)?.render(state))
}

pub(crate) fn list(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let params = call.params;
    let wanted = |session: &Session| {
        is(params, "customer", session.customer.as_deref().unwrap_or_default())
            && is(
                params,
                "subscription",
                session.subscription.as_deref().unwrap_or_default(),
            )
            && is(params, "status", session.status.name())
            && is(
                params,
                "customer_details.email",
                session.email.as_deref().unwrap_or_default(),
            )
            && in_range(params, "created", session.created)
    };
    let rows = state.sessions.iter().rev().filter(|(_, session)| wanted(session));
    let rows = rows
        .map(|(id, session)| (id.to_owned(), session.render(state)))
        .collect();
    list::page("/v1/checkout/sessions", params, rows)
}

pub(crate) fn list_items(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let items = state.session(call.id)?.render_items(state).into_iter().rev();
    let rows = items
        .map(|item| (item["id"].as_str().unwrap_or_default().to_owned(), item))
        .collect();
    list::page(
        &format!("/v1/checkout/sessions/{}/line_items", call.id),
        call.params,
        rows,
    )
}

pub(crate) fn expire(state: &mut State, call: &Call) -> Result<Value, Failure> {
    if state.session(call.id)?.status != Status::Open {
        let message = "Only Checkout Sessions with a status in [\"open\"] can be expired.";
        return Err(Failure::invalid(message));
    }
    expire_session(state, call.id);
    retrieve(state, call)
}

/// Completes the session with this card and starts the subscription, with the discount of a promotion code that the customer typed.
/// A declined card leaves the session open.
pub(crate) fn complete(state: &mut State, id: &str, card: Card, code: Option<&str>) -> Result<(), Failure> {
    state.at_time_of_object(id, |state| complete_now(state, id, card, code))
}

fn complete_now(state: &mut State, id: &str, card: Card, code: Option<&str>) -> Result<(), Failure> {
    let session = state.session(id)?.clone();
    if session.status != Status::Open {
        return Err(Failure::invalid(format!(
            "This Checkout Session is {}.",
            session.status.name()
        )));
    }
    if card == Card::Declines {
        return Err(Failure::declined());
    }
    let mut discounts = session.discounts.clone();
    if let Some(code) = code {
        if !session.allows_codes {
            return Err(Failure::invalid("This Checkout Session takes no promotion codes."));
        }
        discounts = vec![state.typed_code(code, session.customer.as_deref(), &session.currency)?];
    }
    let now = state.now();
    let customer = match session.customer.clone() {
        Some(customer) => state.living_customer(&customer)?.id.clone(),
        None => {
            let email = session
                .email
                .clone()
                .unwrap_or_else(|| "customer@example.com".to_owned());
            let params = Param::Map([("email".to_owned(), Param::Text(email))].into());
            let customer = customers::create(
                state,
                &Call {
                    id: "",
                    params: &params,
                    now,
                },
            )?;
            customer["id"].as_str().unwrap_or_default().to_owned()
        }
    };
    let payment_method = state.ids.next("pm");
    let mut payer = state.living_customer(&customer)?.clone();
    let before = payer.render();
    payer.set_card(Some(card), payment_method);
    if session.automatic_tax && payer.address.is_none() {
        // The page asks for it.
        payer.address = Some(Address {
            country: "US".to_owned(),
            postal_code: Some("94103".to_owned()),
        });
    }
    state.replace_customer(payer, &before);
    let given: Vec<_> = session.items.iter().map(SessionItem::as_params).collect();
    let items = items::changed(state, &[], &given.iter().collect::<Vec<_>>(), &session.currency, now)?;
    let new = New {
        customer: customer.clone(),
        items,
        currency: session.currency,
        trial_end: session.trial_end.or(session.trial_days.map(|days| now + days * 86_400)),
        without_card: session.without_card,
        metadata: session.subscription_metadata,
        description: session.description,
        behavior: Behavior::Refuse,
        discounts: discounts.clone(),
        automatic_tax: session.automatic_tax,
    };
    let subscription = start::start(state, new)?;
    let invoice = state
        .subscriptions
        .get(&subscription)
        .and_then(|subscription| subscription.latest_invoice.clone());
    if let Some(session) = state.sessions.get_mut(id) {
        session.discounts = discounts;
        (session.status, session.customer) = (Status::Complete, Some(customer));
        (session.subscription, session.invoice) = (Some(subscription), invoice);
    }
    let object = state.session(id)?.render(state);
    state.emit("checkout.session.completed", object, None);
    Ok(())
}
