//! Invoice items: what waits to be put on a customer's next invoice.

use serde_json::{Value, json};

use super::failure::Failure;
use super::form::merge_metadata;
use super::invoice::{Line, Status};
use super::routes::Call;
use super::state::{Metadata, State};
use super::table::{self, in_range, is};

#[derive(Clone, Debug)]
pub(super) struct InvoiceItem {
    pub id: String,
    pub customer: String,
    date: i64,
    currency: String,
    /// As it will stand on the invoice.
    pub line: Line,
    /// The invoice that it is on; none yet: pending.
    pub invoice: Option<String>,
    pub deleted: bool,
}

pub(super) const UNDERSTOOD: &[&str] = &[
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

pub(super) fn create(state: &mut State, call: &Call) -> Result<Value, Failure> {
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
            let cost = price.costs(quantity).into_iter().next();
            let (amount, unit) = cost.map_or((0, None), |cost| (cost.amount, cost.unit));
            (amount, price.currency.clone(), Some(price.id.clone()), unit)
        }
        _ => {
            return Err(Failure::invalid(
                "You must specify exactly one of `amount` and `pricing[price]`.",
            ));
        }
    };
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
    let (customer, invoice) = (customer.to_owned(), invoice.map(str::to_owned));
    let id = state.add_invoice_item(&customer, &currency, line, call.now);
    if let Some(invoice) = invoice {
        let line = state.put_item_on(&id, &invoice);
        state.change_invoice(&invoice, |invoice| invoice.lines.extend(line));
    }
    retrieve(state, &Call { id: &id, ..*call })
}

pub(super) fn retrieve(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let item = state.invoice_items.get(call.id).filter(|item| !item.deleted);
    item.map(|item| item.render(state))
        .ok_or_else(|| Failure::not_found("invoiceitem", call.id))
}

pub(super) fn delete(state: &mut State, call: &Call) -> Result<Value, Failure> {
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

pub(super) fn list(state: &mut State, call: &Call) -> Result<Value, Failure> {
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
    table::page("/v1/invoiceitems", params, rows)
}

impl InvoiceItem {
    fn render(&self, state: &State) -> Value {
        let line = &self.line;
        let parent = line.subscription.as_ref().map(|subscription| {
            let details = json!({ "subscription": subscription, "subscription_item": line.item });
            json!({ "subscription_details": details, "type": "subscription_details" })
        });
        let unit = line.unit.map(|unit| unit.to_string());
        let price = line.price.as_deref().and_then(|id| state.prices.get(id));
        let pricing = price.map(|price| {
            json!({ "price_details": { "price": price.id, "product": price.product }, "type": "price_details",
                "unit_amount_decimal": unit })
        });
        json!({
            "id": self.id, "object": "invoiceitem", "amount": line.amount, "currency": self.currency,
            "customer": self.customer, "date": self.date, "description": line.description, "discountable": !line.proration,
            "discounts": [], "invoice": self.invoice, "livemode": false, "metadata": line.metadata,
            "net_amount": line.amount, "parent": parent, "period": { "end": line.period.1, "start": line.period.0 },
            "pricing": pricing, "proration": line.proration, "quantity": line.quantity.unwrap_or(1),
            "quantity_decimal": line.quantity.unwrap_or(1).to_string(), "tax_rates": [], "test_clock": null,
        })
    }
}

impl State {
    pub fn add_invoice_item(&mut self, customer: &str, currency: &str, mut line: Line, now: i64) -> String {
        let id = self.ids.next("ii");
        line.invoice_item = Some(id.clone());
        let item = InvoiceItem {
            id: id.clone(),
            customer: customer.to_owned(),
            date: now,
            currency: currency.to_owned(),
            line,
            invoice: None,
            deleted: false,
        };
        let object = item.render(self);
        self.invoice_items.insert(&id, item);
        self.emit("invoiceitem.created", object, None);
        id
    }

    /// Pending items that an invoice of this subscription takes: its own and those of no subscription.
    pub fn pending_items(&self, customer: &str, subscription: Option<&str>) -> Vec<String> {
        let fits = |item: &InvoiceItem| {
            let of = item.line.subscription.as_deref();
            !item.deleted && item.invoice.is_none() && item.customer == customer && (of.is_none() || of == subscription)
        };
        let pending = self.invoice_items.iter().filter(|(_, item)| fits(item));
        pending.map(|(id, _)| id.to_owned()).collect()
    }

    /// Marks an item as being on an invoice and gives its line.
    pub fn put_item_on(&mut self, id: &str, invoice: &str) -> Option<Line> {
        let item = self.invoice_items.get_mut(id)?;
        item.invoice = Some(invoice.to_owned());
        Some(item.line.clone())
    }
}
