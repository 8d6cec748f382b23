//! Adds, finds and renders invoice items.

use serde_json::{Value, json};

use crate::objects::invoice::Line;
use crate::objects::invoice_item::InvoiceItem;
use crate::state::State;

impl InvoiceItem {
    pub(crate) fn render(&self, state: &State) -> Value {
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
            "quantity_decimal": line.quantity.unwrap_or(1).to_string(), "tax_rates": [],
            "test_clock": state.test_clock_of(&self.customer),
        })
    }
}

impl State {
    pub(crate) fn add_invoice_item(&mut self, customer: &str, currency: &str, mut line: Line, now: i64) -> String {
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

    /// The pending items for an invoice of this subscription in this currency: its own, and those without a subscription.
    pub(crate) fn pending_items(&self, customer: &str, subscription: Option<&str>, currency: &str) -> Vec<String> {
        let fits = |item: &InvoiceItem| {
            let of = item.line.subscription.as_deref();
            let is_pending = !item.deleted && item.invoice.is_none() && item.currency == currency;
            is_pending && item.customer == customer && (of.is_none() || of == subscription)
        };
        let pending = self.invoice_items.iter().filter(|(_, item)| fits(item));
        pending.map(|(id, _)| id.to_owned()).collect()
    }

    /// Puts an item on an invoice and returns its line.
    pub(crate) fn put_item_on(&mut self, id: &str, invoice: &str) -> Option<Line> {
        let item = self.invoice_items.get_mut(id)?;
        item.invoice = Some(invoice.to_owned());
        Some(item.line.clone())
    }
}
