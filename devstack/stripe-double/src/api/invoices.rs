//! The API of invoices.

use serde_json::{Value, json};

use crate::api::call::Call;
use crate::api::tax;
use crate::billing::invoicing::{self, Finalize};
use crate::billing::payment::{self, Try};
use crate::billing::write_off;
use crate::failure::Failure;
use crate::list::{self, in_range, is};
use crate::objects::event;
use crate::objects::invoice::{Invoice, Status};
use crate::objects::metadata::merge_metadata;
use crate::state::State;

pub(crate) const UNDERSTOOD: &[&str] = &[
    "customer",
    "subscription",
    "description",
    "metadata",
    "auto_advance",
    "pending_invoice_items_behavior",
    "collection_method",
    "currency",
    "automatic_tax",
];

pub(crate) const UPDATE_UNDERSTOOD: &[&str] = &["description", "metadata", "auto_advance"];

/// Creates a draft with the pending items. A call finalizes it later, or `auto_advance` does.
pub(crate) fn create(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let params = call.params;
    let subscription = match params.filled("subscription") {
        Some(id) => Some(
            state
                .subscriptions
                .get(id)
                .ok_or_else(|| Failure::no_such("subscription", id).param("subscription"))?,
        ),
        None => None,
    };
    let customer = params
        .filled("customer")
        .or(subscription.map(|subscription| subscription.customer.as_str()));
    let Some(customer) = customer.map(str::to_owned) else {
        return Err(Failure::invalid("Missing required param: customer.")
            .code("parameter_missing")
            .param("customer"));
    };
    if params.text("collection_method") == Some("send_invoice") {
        return Err(Failure::gap("collection_method=send_invoice"));
    }
    let subscription = subscription.map(|subscription| subscription.id.clone());
    state.living_customer(&customer)?;
    let mut invoice = Invoice::new(state, &customer, "manual", (call.now, call.now));
    let id = invoice.id.clone();
    invoice.subscription.clone_from(&subscription);
    invoice.auto_advance = params.flag("auto_advance").unwrap_or(false);
    invoice.description = params.filled("description").map(str::to_owned);
    if let Some(currency) = params.filled("currency") {
        invoice.currency = currency.to_lowercase();
    }
    if tax::automatic(state, params)? == Some(true) {
        tax::check_location(state, &customer)?;
        invoice.tax_basis_points = state.settings.tax_basis_points;
    }
    merge_metadata(&mut invoice.metadata, params);
    // By default it takes the pending items only if it is for a subscription.
    let include = params
        .text("pending_invoice_items_behavior")
        .map_or(subscription.is_some(), |text| text == "include");
    if include {
        let pending = state.pending_items(&customer, subscription.as_deref(), &invoice.currency);
        invoice.lines = pending.iter().filter_map(|item| state.put_item_on(item, &id)).collect();
    }
    state.invoices.insert(&id, invoice);
    invoicing::issue(state, &id, Finalize::Later)?;
    retrieve(state, &Call { id: &id, ..*call })
}

pub(crate) fn retrieve(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let invoice = state.invoice(call.id)?;
    Ok(invoice.render(state))
}

pub(crate) fn list(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let params = call.params;
    let wanted = |invoice: &Invoice| {
        is(params, "customer", &invoice.customer)
            && is(
                params,
                "subscription",
                invoice.subscription.as_deref().unwrap_or_default(),
            )
            && is(params, "status", invoice.status.name())
            && is(params, "collection_method", "charge_automatically")
            && in_range(params, "created", invoice.created)
    };
    let rows = state.invoices.iter().rev().filter(|(_, invoice)| wanted(invoice));
    let rows = rows
        .map(|(id, invoice)| (id.to_owned(), invoice.render(state)))
        .collect();
    list::page("/v1/invoices", params, rows)
}

pub(crate) fn lines(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let lines = state.invoice(call.id)?.render_lines(state).into_iter();
    let rows = lines
        .map(|line| (line["id"].as_str().unwrap_or_default().to_owned(), line))
        .collect();
    list::page(&format!("/v1/invoices/{}/lines", call.id), call.params, rows)
}

pub(crate) fn update(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let before = retrieve(state, call)?;
    let params = call.params;
    if params.has("description") {
        draft(state, call.id)?;
    }
    state.change_invoice(call.id, |invoice| {
        merge_metadata(&mut invoice.metadata, params);
        invoice.auto_advance = params.flag("auto_advance").unwrap_or(invoice.auto_advance);
        if let Some(text) = params.text("description") {
            invoice.description = Some(text.to_owned()).filter(|text| !text.is_empty());
        }
    });
    let after = retrieve(state, call)?;
    if let Some(previous) = event::changed(&before, &after) {
        state.emit("invoice.updated", after.clone(), Some(previous));
    }
    Ok(after)
}

pub(crate) fn delete(state: &mut State, call: &Call) -> Result<Value, Failure> {
    draft(state, call.id)?;
    if state.invoice(call.id)?.reason != "manual" {
        return Err(Failure::invalid("You can't delete invoices created by subscriptions."));
    }
    // Its id no longer exists, and its items are pending again.
    for item in state
        .invoice_items
        .iter_mut()
        .filter(|item| item.invoice.as_deref() == Some(call.id))
    {
        item.invoice = None;
    }
    let object = retrieve(state, call)?;
    state.invoices.remove(call.id);
    state.emit("invoice.deleted", object, None);
    Ok(json!({ "id": call.id, "object": "invoice", "deleted": true }))
}

pub(crate) fn finalize(state: &mut State, call: &Call) -> Result<Value, Failure> {
    draft(state, call.id)?;
    if let Some(auto_advance) = call.params.flag("auto_advance") {
        state.change_invoice(call.id, |invoice| invoice.auto_advance = auto_advance);
    }
    let charges = state.invoice(call.id)?.auto_advance;
    payment::finalize(state, call.id);
    payment::settle(state, call.id, charges.then_some(Try::Automatic)).unwrap_or_default(); // the invoice is finalized, paid or not
    retrieve(state, call)
}

/// Pays with the customer's card or the given one, or without a card if `paid_out_of_band` is set.
pub(crate) fn pay(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let status = state.invoice(call.id)?.status;
    match status {
        Status::Open | Status::Uncollectible => {}
        Status::Draft => payment::finalize(state, call.id),
        Status::Paid => return Err(Failure::invalid("Invoice is already paid")),
        Status::Void => return Err(Failure::invalid("This invoice is void and cannot be paid.")),
    }
    if call.params.flag("paid_out_of_band") == Some(true) {
        payment::paid(state, call.id);
        return retrieve(state, call);
    }
    let method = call.params.filled("payment_method");
    let payer = state.known_customer(&state.invoice(call.id)?.customer)?;
    let card = method.map(|method| payer.card_named(method)).transpose()?;
    state.change_invoice(call.id, |invoice| invoice.status = Status::Open);
    if let (Some(method), Some(card)) = (method, card) {
        let customer = state.invoice(call.id)?.customer.clone();
        if let Some(customer) = state.customers.get_mut(&customer) {
            customer.set_card(Some(card), method.to_owned());
        }
    }
    payment::settle(state, call.id, Some(Try::Asked))?;
    retrieve(state, call)
}

pub(crate) fn void(state: &mut State, call: &Call) -> Result<Value, Failure> {
    open(state, call.id)?;
    write_off::void(state, call.id);
    retrieve(state, call)
}

pub(crate) fn mark_uncollectible(state: &mut State, call: &Call) -> Result<Value, Failure> {
    open(state, call.id)?;
    write_off::mark_uncollectible(state, call.id);
    retrieve(state, call)
}

fn draft(state: &State, id: &str) -> Result<(), Failure> {
    match state.invoice(id)?.status {
        Status::Draft => Ok(()),
        _ => Err(
            Failure::invalid("This invoice is already finalized, and is no longer editable.")
                .code("invoice_not_editable"),
        ),
    }
}

fn open(state: &State, id: &str) -> Result<(), Failure> {
    match state.invoice(id)?.status {
        Status::Open | Status::Uncollectible => Ok(()),
        other => Err(Failure::invalid(format!(
            "This invoice is {}: only an open invoice can be changed this way.",
            other.name()
        ))),
    }
}
