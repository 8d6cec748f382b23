//! The API of invoice items.

use serde_json::{Value, json};

use crate::api::call::Call;
use crate::billing::items::check_currency;
use crate::failure::Failure;
use crate::list::{self, in_range, is};
use crate::objects::invoice::{Line, Status};
use crate::objects::invoice_item::InvoiceItem;
use crate::objects::metadata::{Metadata, merge_metadata};
use crate::state::State;

pub(crate) const UNDERSTOOD: &[&str] = &[
    "customer",
    "amount",
    "currency",
    "description",
    "invoice",
    "metadata",
    "period",
    "pricing",
    "quantity",
    "subscription",
];

pub(crate) fn create(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let params = call.params;
    let Some(customer) = params.filled("customer") else {
        return Err(Failure::invalid("Missing required param: customer.")
            .code("parameter_missing")
            .param("customer"));
    };
    state.living_customer(customer)?;
    let subscription = params.filled("subscription");
    if let Some(id) = subscription {
        let theirs = state
            .subscriptions
            .get(id)
            .filter(|subscription| subscription.customer == customer);
        theirs.ok_or_else(|| Failure::no_such("subscription", id).param("subscription"))?;
    }
    let invoice = params.filled("invoice");
    if let Some(id) = invoice {
        let theirs = state.invoices.get(id).filter(|invoice| invoice.customer == customer);
        let invoice = theirs.ok_or_else(|| Failure::no_such("invoice", id).param("invoice"))?;
        if invoice.status != Status::Draft {
            return Err(Failure::invalid("This invoice is no longer editable")
                .code("invoice_not_editable")
                .param("invoice"));
        }
    }
    let quantity = params.int("quantity").unwrap_or(1);
    let (amount, currency, price, unit) = match (params.int("amount"), params.filled("pricing.price")) {
        (Some(_), None) if params.has("quantity") => {
            return Err(Failure::invalid(
                "You may only specify one of these parameters: amount, quantity.",
            ));
        }
        (Some(amount), None) => (
            amount,
            params.text("currency").unwrap_or("usd").to_lowercase(),
            None,
            None,
        ),
        (None, Some(id)) => {
            let price = state
                .prices
                .get(id)
                .ok_or_else(|| Failure::no_such("price", id).param("pricing[price]"))?;
            if price.recurring.is_some() {
                let message =
                    "The price specified is set to `type=recurring` but this field only accepts `type=one_time`.";
                return Err(Failure::invalid(message).param("pricing[price]"));
            }
            let currency = state.new_currency(params.filled("currency"), Some(customer), id);
            check_currency(state, id, &currency).map_err(|failure| failure.param("pricing[price]"))?;
            let cost = price.costs(&currency, quantity).into_iter().next();
            let (amount, unit) = cost.map_or((0, None), |cost| (cost.amount, cost.unit));
            (amount, currency, Some(price.id.clone()), unit)
        }
        _ => {
            return Err(Failure::invalid(
                "You must specify exactly one of `amount` and `pricing[price]`.",
            ));
        }
    };
    state.check_currency(customer, &currency)?;
    let period = (
        params.int("period.start").unwrap_or(call.now),
        params.int("period.end").unwrap_or(call.now),
    );
    if period.0 > period.1 {
        return Err(Failure::invalid("The period must end after it starts.").param("period"));
    }
    let mut metadata = Metadata::new();
    merge_metadata(&mut metadata, params);
    let line = Line {
        id: state.ids.next("il"),
        amount,
        quantity: Some(quantity),
        description: params.text("description").unwrap_or_default().to_owned(),
        price,
        unit,
        period,
        proration: false,
        subscription: subscription.map(str::to_owned),
        item: None,
        invoice_item: None,
        metadata,
    };
    state.bind_currency(customer, &currency);
    let (customer, invoice) = (customer.to_owned(), invoice.map(str::to_owned));
    let id = state.add_invoice_item(&customer, &currency, line, call.now);
    if let Some(invoice) = invoice {
        let line = state.put_item_on(&id, &invoice);
        state.change_invoice(&invoice, |invoice| invoice.lines.extend(line));
    }
    retrieve(state, &Call { id: &id, ..*call })
}

pub(crate) fn retrieve(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let item = state.invoice_items.get(call.id).filter(|item| !item.deleted);
    item.map(|item| item.render(state))
        .ok_or_else(|| Failure::not_found("invoiceitem", call.id))
}

pub(crate) fn delete(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let object = retrieve(state, call)?;
    let item = state
        .invoice_items
        .get_mut(call.id)
        .filter(|item| item.invoice.is_none());
    let item = item.ok_or_else(|| Failure::invalid("This invoice item is on an invoice and cannot be deleted."))?;
    item.deleted = true;
    state.emit("invoiceitem.deleted", object, None);
    Ok(json!({ "id": call.id, "object": "invoiceitem", "deleted": true }))
}

pub(crate) fn list(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let params = call.params;
    let wanted = |item: &InvoiceItem| {
        !item.deleted
            && in_range(params, "created", item.date)
            && is(params, "customer", &item.customer)
            && is(params, "invoice", item.invoice.as_deref().unwrap_or_default())
            && is(params, "pending", &item.invoice.is_none().to_string())
    };
    let rows = state.invoice_items.iter().rev().filter(|(_, item)| wanted(item));
    let rows = rows.map(|(id, item)| (id.to_owned(), item.render(state))).collect();
    list::page("/v1/invoiceitems", params, rows)
}
