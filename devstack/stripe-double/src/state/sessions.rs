//! Finds and renders checkout sessions.

use serde_json::{Value, json};

use crate::failure::Failure;
use crate::objects::coupon::{self, Redeemed};
use crate::objects::price::Price;
use crate::objects::session::{Session, SessionItem, Status};
use crate::state::State;

impl Session {
    /// The amount that is due now.
    pub(crate) fn total(&self, state: &State) -> i64 {
        let subtotal = self.subtotal(state);
        let (discount, tax) = self.discount_and_tax(subtotal, state);
        subtotal - discount + tax
    }

    fn discount_and_tax(&self, subtotal: i64, state: &State) -> (i64, i64) {
        let tax = state.settings.tax_basis_points.filter(|_| self.automatic_tax);
        coupon::discount_and_tax(subtotal, &state.offs(&self.discounts), tax)
    }

    fn subtotal(&self, state: &State) -> i64 {
        if self.trial_days.is_some() || self.trial_end.is_some() {
            return 0;
        }
        let prices = self
            .items
            .iter()
            .filter_map(|item| Some((item, state.prices.get(&item.price)?)));
        prices.map(|(item, price)| self.amount(item, price)).sum()
    }

    /// What an item costs at once.
    fn amount(&self, item: &SessionItem, price: &Price) -> i64 {
        if price.is_metered() {
            return 0;
        }
        let costs = price.costs(&self.currency, item.quantity.unwrap_or(1));
        costs.iter().map(|cost| cost.amount).sum()
    }

    pub(crate) fn email<'a>(&'a self, state: &'a State) -> Option<&'a str> {
        let customer = self.customer.as_deref().and_then(|id| state.customers.get(id));
        self.email.as_deref().or_else(|| customer?.email.as_deref())
    }

    pub(crate) fn render_items(&self, state: &State) -> Vec<Value> {
        let render = |item: &SessionItem| {
            let price = state.prices.get(&item.price)?;
            let product = state.products.get(&price.product)?;
            let amount = self.amount(item, price);
            Some(
                json!({ "id": item.id, "object": "item", "amount_discount": 0, "amount_subtotal": amount, "amount_tax": 0,
                "amount_total": amount, "currency": self.currency, "description": product.name, "metadata": {},
                "price": price.render(), "quantity": item.quantity }),
            )
        };
        self.items.iter().filter_map(render).collect()
    }

    pub(crate) fn render(&self, state: &State) -> Value {
        let subtotal = self.subtotal(state);
        let (discount, tax) = self.discount_and_tax(subtotal, state);
        let total = subtotal - discount + tax;
        let shown = |(coupon, code): &Redeemed| match code {
            Some(code) => json!({ "coupon": null, "promotion_code": code }),
            None => json!({ "coupon": coupon, "promotion_code": null }),
        };
        let discounts: Vec<_> = self.discounts.iter().map(shown).collect();
        let customer = self.customer.as_deref().and_then(|id| state.customers.get(id));
        let payment_status = match self.status {
            Status::Complete if total == 0 => "no_payment_required",
            Status::Complete => "paid",
            _ => "unpaid",
        };
        let url = (self.status == Status::Open).then(|| format!("{}/c/pay/{}", state.url, self.id));
        json!({
            "id": self.id, "object": "checkout.session", "adaptive_pricing": null, "after_expiration": null,
            "allow_promotion_codes": self.allows_codes, "amount_subtotal": subtotal, "amount_total": total,
            "automatic_tax": { "enabled": self.automatic_tax, "liability": null, "provider": null,
                "status": self.automatic_tax.then_some("complete") },
            "billing_address_collection": null, "cancel_url": self.cancel_url,
            "client_reference_id": self.client_reference_id, "client_secret": null, "collected_information": null,
            "consent": null, "consent_collection": null, "created": self.created, "currency": self.currency,
            "currency_conversion": null, "custom_fields": [], "custom_text": { "after_submit": null, "shipping_address": null,
                "submit": null, "terms_of_service_acceptance": null },
            "customer": self.customer, "customer_creation": if self.email.is_some() { json!("always") } else { Value::Null },
            "customer_details": self.email(state).map(|email| json!({ "address": null, "email": email,
                "name": customer.and_then(|customer| customer.name.as_deref()), "phone": null, "tax_exempt": "none",
                "tax_ids": null })),
            "customer_email": self.email, "discounts": discounts, "expires_at": self.expires_at, "invoice": self.invoice,
            "invoice_creation": null, "livemode": false, "locale": null, "metadata": self.metadata, "mode": "subscription",
            "origin_context": null, "payment_intent": null, "payment_link": null, "payment_method_collection": "always",
            "payment_method_configuration_details": null, "payment_method_options": null, "payment_method_types": ["card"],
            "payment_status": payment_status, "permissions": null, "phone_number_collection": { "enabled": false },
            "recovered_from": null, "saved_payment_method_options": null, "setup_intent": null,
            "shipping_address_collection": null, "shipping_cost": null, "shipping_options": [],
            "status": self.status.name(), "submit_type": null, "subscription": self.subscription,
            "success_url": self.success_url, "total_details": { "amount_discount": discount, "amount_shipping": 0, "amount_tax": tax },
            "ui_mode": "hosted_page", "url": url, "wallet_options": null,
        })
    }
}

impl State {
    pub(crate) fn session(&self, id: &str) -> Result<&Session, Failure> {
        self.sessions
            .get(id)
            .ok_or_else(|| Failure::not_found("checkout.session", id))
    }
}
