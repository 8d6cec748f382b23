//! Finds and replaces customers.

use serde_json::Value;

use crate::failure::Failure;
use crate::objects::customer::Customer;
use crate::objects::event;
use crate::objects::subscription::Subscription;
use crate::options::Card;
use crate::state::State;

impl State {
    /// The customer that a parameter names.
    pub(crate) fn living_customer(&self, id: &str) -> Result<&Customer, Failure> {
        let customer = self.customers.get(id).filter(|customer| !customer.deleted);
        customer.ok_or_else(|| Failure::no_such("customer", id).param("customer"))
    }

    /// The customer that a parameter names, which may be deleted.
    pub(crate) fn known_customer(&self, id: &str) -> Result<&Customer, Failure> {
        let customer = self.customers.get(id);
        customer.ok_or_else(|| Failure::no_such("customer", id).param("customer"))
    }

    /// The card that pays a subscription: its own, or that of the customer.
    pub(crate) fn paying_card(&self, subscription: &Subscription) -> Option<Card> {
        let customer = self.customers.get(&subscription.customer)?;
        let own = subscription.default_payment_method.as_deref();
        own.and_then(|id| customer.own(id).ok()).or(customer.card)
    }

    /// The currency of a new subscription or checkout: the one that the call names, the customer's if the price is sold in it, or the
    /// price's own.
    pub(crate) fn new_currency(&self, named: Option<&str>, customer: Option<&str>, price: &str) -> String {
        let price = self.prices.get(price);
        let customer = customer.and_then(|id| self.customers.get(id));
        let bound = customer.and_then(|customer| customer.currency.as_deref());
        let bound = bound.filter(|currency| price.is_some_and(|price| price.pricing_in(currency).is_some()));
        let own = price.map(|price| price.currency.as_str());
        named.or(bound).or(own).unwrap_or("usd").to_lowercase()
    }

    /// A customer's running subscriptions, pending invoice items and balance have one currency. Refuses another one.
    pub(crate) fn check_currency(&self, customer: &str, currency: &str) -> Result<(), Failure> {
        let subscriptions = self.subscriptions.iter().map(|(_, subscription)| subscription);
        let running = subscriptions.filter(|one| one.customer == customer && !one.status.has_ended());
        let items = self.invoice_items.iter().map(|(_, item)| item);
        let pending = items.filter(|item| item.customer == customer && !item.deleted && item.invoice.is_none());
        let bound = running
            .map(|subscription| &subscription.currency)
            .chain(pending.map(|item| &item.currency));
        let customer = self.customers.get(customer);
        let balance = customer.filter(|customer| customer.balance != 0);
        let mut bound = bound.chain(balance.and_then(|customer| customer.currency.as_ref()));
        match bound.find(|bound| *bound != currency) {
            Some(bound) => Err(Failure::currency_mismatch(bound)),
            None => Ok(()),
        }
    }

    /// Binds the customer to the currency of what they get now, which was checked.
    pub(crate) fn bind_currency(&mut self, customer: &str, currency: &str) {
        let living = self.customers.get(customer).filter(|customer| !customer.deleted);
        if let Some(mut customer) = living.cloned() {
            let before = customer.render();
            customer.currency = Some(currency.to_owned());
            self.replace_customer(customer, &before);
        }
    }

    pub(crate) fn replace_customer(&mut self, customer: Customer, before: &Value) {
        let (after, id) = (customer.render(), customer.id.clone());
        if let Some(row) = self.customers.get_mut(&id) {
            *row = customer;
        }
        if let Some(previous) = event::changed(before, &after) {
            self.emit("customer.updated", after, Some(previous));
        }
    }
}
