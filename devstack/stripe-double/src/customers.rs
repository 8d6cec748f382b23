//! Customers, with the test card that their payments meet.

use serde_json::{Value, json};

use super::failure::Failure;
use super::form::{Param, merge_metadata};
use super::options::Card;
use super::routes::Call;
use super::state::{Metadata, State};
use super::table::{self, in_range, is};
use super::{cancellation, events};

#[derive(Clone, Debug)]
pub(super) struct Customer {
    pub id: String,
    pub email: Option<String>,
    pub name: Option<String>,
    description: Option<String>,
    phone: Option<String>,
    metadata: Metadata,
    created: i64,
    /// Cents; negative: a credit for the next invoices.
    pub balance: i64,
    pub card: Option<Card>,
    payment_method: Option<String>,
    pub deleted: bool,
    pub currency: Option<String>,
    invoice_prefix: String,
    invoices_numbered: i64,
}

pub(super) const UNDERSTOOD: &[&str] = &[
    "email",
    "name",
    "description",
    "phone",
    "metadata",
    "balance",
    "payment_method",
    "invoice_settings",
];

pub(super) fn create(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let id = state.ids.next("cus");
    let mut customer = Customer {
        id: id.clone(),
        email: None,
        name: None,
        description: None,
        phone: None,
        metadata: Metadata::new(),
        created: call.now,
        balance: 0,
        card: None,
        payment_method: None,
        deleted: false,
        currency: None,
        invoice_prefix: state.ids.text(8).to_uppercase(),
        invoices_numbered: 0,
    };
    customer.apply(call.params)?;
    if customer.card.is_none()
        && let Some(card) = state.settings.new_customers_card
    {
        let payment_method = state.ids.next("pm");
        customer.set_card(Some(card), payment_method);
    }
    let object = customer.render();
    state.customers.insert(&id, customer);
    state.emit("customer.created", object.clone(), None);
    Ok(object)
}

pub(super) fn retrieve(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let customer = state.customers.get(call.id);
    customer
        .map(Customer::render)
        .ok_or_else(|| Failure::not_found("customer", call.id))
}

pub(super) fn update(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let mut customer = state
        .living_customer(call.id)
        .map_err(|_| Failure::not_found("customer", call.id))?
        .clone();
    let before = customer.render();
    customer.apply(call.params)?;
    state.replace_customer(customer, &before);
    retrieve(state, call)
}

/// Also cancels what the customer is subscribed to, at once.
pub(super) fn delete(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let before = state
        .living_customer(call.id)
        .map_err(|_| Failure::not_found("customer", call.id))?
        .render();
    cancellation::cancel_all_of(state, call.id, call.now);
    if let Some(customer) = state.customers.get_mut(call.id) {
        customer.deleted = true;
    }
    state.emit("customer.deleted", before, None);
    retrieve(state, call)
}

pub(super) fn list(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let wanted = |customer: &Customer| {
        !customer.deleted
            && in_range(call.params, "created", customer.created)
            && is(call.params, "email", customer.email.as_deref().unwrap_or_default())
    };
    let rows = state.customers.iter().rev().filter(|(_, customer)| wanted(customer));
    let rows = rows.map(|(id, customer)| (id.to_owned(), customer.render())).collect();
    table::page("/v1/customers", call.params, rows)
}

impl Customer {
    fn apply(&mut self, params: &Param) -> Result<(), Failure> {
        for (name, field) in [
            ("email", &mut self.email),
            ("name", &mut self.name),
            ("description", &mut self.description),
            ("phone", &mut self.phone),
        ] {
            if let Some(text) = params.text(name) {
                *field = Some(text.to_owned()).filter(|text| !text.is_empty());
            }
        }
        if let Some(email) = self.email.as_deref().filter(|email| !email.contains('@')) {
            return Err(Failure::invalid(format!("Invalid email address: {email}"))
                .code("email_invalid")
                .param("email"));
        }
        self.balance = params.int("balance").unwrap_or(self.balance);
        let method = params
            .filled("invoice_settings.default_payment_method")
            .or_else(|| params.filled("payment_method"));
        if let Some(method) = method {
            self.set_card(Some(card_of(method)?), method.to_owned());
        }
        merge_metadata(&mut self.metadata, params);
        Ok(())
    }

    pub fn set_card(&mut self, card: Option<Card>, payment_method: String) {
        self.payment_method = card.map(|_| payment_method);
        self.card = card;
    }

    /// `<prefix>-0001`, and so on.
    pub fn next_invoice_number(&mut self) -> String {
        self.invoices_numbered += 1;
        format!("{}-{:04}", self.invoice_prefix, self.invoices_numbered)
    }

    pub fn render(&self) -> Value {
        if self.deleted {
            return json!({ "id": self.id, "object": "customer", "deleted": true });
        }
        json!({
            "id": self.id, "object": "customer", "address": null, "balance": self.balance, "created": self.created,
            "currency": self.currency, "default_source": null, "delinquent": false, "description": self.description,
            "email": self.email, "invoice_prefix": self.invoice_prefix,
            "invoice_settings": { "custom_fields": null, "default_payment_method": self.payment_method, "footer": null,
                "rendering_options": null },
            "livemode": false, "metadata": self.metadata, "name": self.name,
            "next_invoice_sequence": self.invoices_numbered + 1, "phone": self.phone, "preferred_locales": [],
            "shipping": null, "tax_exempt": "none", "test_clock": null,
        })
    }
}

/// Stripe's own names of test cards.
pub(super) fn card_of(payment_method: &str) -> Result<Card, Failure> {
    match payment_method {
        declines if declines.starts_with("pm_card_chargeDeclined") || declines == "pm_card_chargeCustomerFail" => {
            Ok(Card::Declines)
        }
        works if works.starts_with("pm_card_") => Ok(Card::Ok),
        other => Err(Failure::no_such("PaymentMethod", other).param("payment_method")),
    }
}

impl State {
    /// The customer that a parameter names.
    pub fn living_customer(&self, id: &str) -> Result<&Customer, Failure> {
        let customer = self.customers.get(id).filter(|customer| !customer.deleted);
        customer.ok_or_else(|| Failure::no_such("customer", id).param("customer"))
    }

    /// One that was deleted is known.
    pub fn known_customer(&self, id: &str) -> Result<&Customer, Failure> {
        let customer = self.customers.get(id);
        customer.ok_or_else(|| Failure::no_such("customer", id).param("customer"))
    }

    pub fn replace_customer(&mut self, customer: Customer, before: &Value) {
        let (after, id) = (customer.render(), customer.id.clone());
        if let Some(row) = self.customers.get_mut(&id) {
            *row = customer;
        }
        if let Some(previous) = events::changed(before, &after) {
            self.emit("customer.updated", after, Some(previous));
        }
    }
}
