//! Finds, changes, adds up and renders invoices.

use serde_json::{Value, json};

use crate::failure::Failure;
use crate::list;
use crate::objects::credit_note::taxes;
use crate::objects::invoice::{Invoice, Line, LineAmounts, Metered, Status};
use crate::objects::metadata::Metadata;
use crate::objects::pricing::Cost;
use crate::state::State;

/// An invoice shows this many lines; another call lists the rest.
const LINES_SHOWN: usize = 10;

impl Metered {
    /// One line for each tier; none if the time span is empty.
    pub(crate) fn lines(&self, state: &State) -> Vec<Line> {
        let Some(price) = state.prices.get(&self.price).filter(|_| self.from < self.to) else {
            return Vec::new();
        };
        let event_name = price
            .meter()
            .and_then(|meter| state.meters.get(meter))
            .map(|meter| meter.event_name.clone());
        let counted = (self.customer.clone(), event_name.unwrap_or_default());
        let units = state.usage.metered(state.now(), &counted, self.from, self.to);
        let name = state
            .products
            .get(&price.product)
            .map_or("", |product| product.name.as_str());
        let line = |(n, cost): (usize, Cost)| Line {
            id: format!("il_{}{}t{n}", self.item.trim_start_matches("si_"), self.to),
            amount: match cost.amount {
                0 => 0,
                amount => amount + state.settings.usage_wrong_by_cents,
            },
            quantity: Some(cost.quantity),
            description: match cost.label.as_str() {
                "" => format!("{} × {name}", cost.quantity),
                label => format!("{} × {name} ({label})", cost.quantity),
            },
            price: Some(self.price.clone()),
            unit: cost.unit,
            period: (self.from, self.to),
            proration: false,
            subscription: Some(self.subscription.clone()),
            item: Some(self.item.clone()),
            invoice_item: None,
            metadata: Metadata::new(),
        };
        price
            .costs(&self.currency, units)
            .into_iter()
            .enumerate()
            .map(line)
            .collect()
    }
}

impl LineAmounts {
    fn render(&self, invoice: &str, currency: &str, state: &State) -> Value {
        let line = &self.line;
        let price = line.price.as_deref().and_then(|id| state.prices.get(id));
        let pricing = price.map(|price| {
            json!({ "price_details": { "price": price.id, "product": price.product }, "type": "price_details",
                "unit_amount_decimal": line.unit.map(|unit| unit.to_string()) })
        });
        let parent = match (&line.item, &line.invoice_item) {
            (Some(item), invoice_item) => json!({
                "invoice_item_details": null,
                "subscription_item_details": { "invoice_item": invoice_item, "proration": line.proration,
                    "proration_details": { "credited_items": null }, "subscription": line.subscription,
                    "subscription_item": item },
                "type": "subscription_item_details",
            }),
            (None, invoice_item) => json!({
                "invoice_item_details": { "invoice_item": invoice_item.as_deref().unwrap_or_default(),
                    "proration": line.proration, "proration_details": { "credited_items": null },
                    "subscription": line.subscription },
                "subscription_item_details": null, "type": "invoice_item_details",
            }),
        };
        let discounts = discount_amounts(&self.discounts);
        let ids: Vec<_> = self.discounts.iter().map(|(id, _)| id).collect();
        json!({
            "id": line.id, "object": "line_item", "amount": line.amount, "currency": currency,
            "description": line.description, "discount_amounts": discounts, "discountable": true, "discounts": ids,
            "invoice": invoice, "livemode": false, "metadata": line.metadata, "parent": parent,
            "period": { "end": line.period.1, "start": line.period.0 }, "pretax_credit_amounts": [], "pricing": pricing,
            "quantity": line.quantity, "quantity_decimal": line.quantity.map(|quantity| quantity.to_string()),
            "subtotal": line.amount, "taxes": taxes(self.tax, self.without_tax()),
        })
    }
}

fn discount_amounts(discounts: &[(String, i64)]) -> Value {
    let amount = |(id, amount): &(String, i64)| json!({ "amount": amount, "discount": id });
    discounts.iter().map(amount).collect()
}

impl Invoice {
    pub(crate) fn new(state: &mut State, customer: &str, reason: &'static str, period: (i64, i64)) -> Self {
        let currency = state
            .customers
            .get(customer)
            .and_then(|customer| customer.currency.clone());
        Self {
            id: state.ids.next("in"),
            customer: customer.to_owned(),
            subscription: None,
            status: Status::Draft,
            reason,
            created: state.now(),
            period,
            lines: Vec::new(),
            metered: Vec::new(),
            auto_advance: true,
            finalizes_at: None,
            number: None,
            finalized_at: None,
            paid_at: None,
            voided_at: None,
            uncollectible_at: None,
            attempts: 0,
            next_attempt: None,
            amount_paid: 0,
            balances: None,
            currency: currency.unwrap_or_else(|| "usd".to_owned()),
            metadata: Metadata::new(),
            description: None,
            discounts: Vec::new(),
            tax_basis_points: None,
            payment: None,
        }
    }

    pub(crate) fn all_lines(&self, state: &State) -> Vec<Line> {
        let metered = self.metered.iter().flat_map(|metered| metered.lines(state));
        self.lines.iter().cloned().chain(metered).collect()
    }

    pub(crate) fn render_lines(&self, state: &State) -> Vec<Value> {
        self.amounts(state)
            .iter()
            .map(|amounts| amounts.render(&self.id, &self.currency, state))
            .collect()
    }

    pub(crate) fn render(&self, state: &State) -> Value {
        let mut lines = self.render_lines(state);
        let has_more = lines.len() > LINES_SHOWN;
        lines.truncate(LINES_SHOWN);
        let amounts = self.amounts(state);
        let sum = |part: fn(&LineAmounts) -> i64| amounts.iter().map(part).fold(0, i64::saturating_add);
        let (subtotal, without_tax) = (sum(|one| one.line.amount), sum(LineAmounts::without_tax));
        let tax = sum(|one| one.tax);
        let by_discount = |id: &String| {
            let cuts = amounts.iter().flat_map(|one| &one.discounts).filter(|(of, _)| of == id);
            (id.clone(), cuts.map(|(_, cut)| cut).sum::<i64>())
        };
        let discounts: Vec<_> = self.discounts.iter().map(by_discount).collect();
        let (due, credited) = (self.amount_due(state), state.credited(&self.id));
        let taxed = self.tax_basis_points.is_some();
        let customer = state.customers.get(&self.customer);
        let balance = self
            .balances
            .map_or_else(|| customer.map_or(0, |customer| customer.balance), |(before, _)| before);
        let subscription = self.subscription.as_deref().and_then(|id| state.subscriptions.get(id));
        let parent = subscription.map(|subscription| {
            let details = json!({ "metadata": subscription.metadata, "subscription": subscription.id });
            json!({ "quote_details": null, "subscription_details": details, "type": "subscription_details" })
        });
        let link = |what: &str| {
            self.number
                .as_ref()
                .map(|_| format!("{}/i/{}{what}", state.url, self.id))
        };
        json!({
            "id": self.id, "object": "invoice", "account_country": "US", "account_name": "The double's account",
            "account_tax_ids": null, "amount_due": due, "amount_overpaid": 0, "amount_paid": self.amount_paid,
            "amount_remaining": self.amount_remaining(state), "amount_shipping": 0, "application": null,
            "attempt_count": self.attempts, "attempted": self.attempts > 0, "auto_advance": self.auto_advance,
            "automatic_tax": { "disabled_reason": null, "enabled": taxed, "liability": null, "provider": null,
                "status": taxed.then_some("complete") },
            "automatically_finalizes_at": self.finalizes_at.filter(|_| self.status == Status::Draft && self.auto_advance),
            "billing_reason": self.reason, "collection_method": "charge_automatically", "created": self.created,
            "currency": self.currency, "custom_fields": null, "customer": self.customer,
            "customer_email": customer.and_then(|customer| customer.email.as_deref()),
            "customer_name": customer.and_then(|customer| customer.name.as_deref()), "customer_address": null,
            "customer_phone": null, "customer_shipping": null, "customer_tax_exempt": "none", "customer_tax_ids": [],
            "default_payment_method": null, "default_source": null, "default_tax_rates": [],
            "description": self.description, "discounts": self.discounts, "due_date": null, "effective_at": self.finalized_at,
            "ending_balance": self.balances.map(|(_, after)| after), "footer": null, "from_invoice": null,
            "hosted_invoice_url": link(""), "invoice_pdf": link("/pdf"),
            "issuer": { "type": "self" }, "last_finalization_error": null, "latest_revision": null,
            "lines": { "object": "list", "data": lines, "has_more": has_more, "url": format!("/v1/invoices/{}/lines", self.id) },
            "livemode": false, "metadata": self.metadata, "next_payment_attempt": self.next_attempt, "number": self.number,
            "on_behalf_of": null, "parent": parent,
            "payment_settings": { "default_mandate": null, "payment_method_options": null, "payment_method_types": null },
            "period_end": self.period.1, "period_start": self.period.0,
            "post_payment_credit_notes_amount": credited.post_payment,
            "pre_payment_credit_notes_amount": credited.pre_payment, "receipt_number": null, "rendering": null,
            "shipping_cost": null,
            "shipping_details": null, "starting_balance": balance, "statement_descriptor": null,
            "status": self.status.name(),
            "status_transitions": { "finalized_at": self.finalized_at, "marked_uncollectible_at": self.uncollectible_at,
                "paid_at": self.paid_at, "voided_at": self.voided_at },
            "subtotal": subtotal, "subtotal_excluding_tax": subtotal, "test_clock": state.test_clock_of(&self.customer),
            "total": without_tax + tax,
            "total_discount_amounts": discount_amounts(&discounts), "total_excluding_tax": without_tax,
            "total_pretax_credit_amounts": [], "total_taxes": taxes(tax, without_tax),
            "webhooks_delivered_at": null,
        })
    }

    /// Shown when `payments` is expanded.
    pub(crate) fn render_payments(&self, state: &State) -> Value {
        list::whole("/v1/invoice_payments", self.render_payment(state).into_iter().collect())
    }

    /// Its one payment.
    pub(crate) fn render_payment(&self, state: &State) -> Option<Value> {
        self.payment.as_ref().map(|payment| {
            let paid = self.status == Status::Paid;
            let status = match self.status {
                Status::Paid => "paid",
                Status::Void => "canceled",
                _ => "open",
            };
            json!({ "id": format!("inpay_{}", self.id.trim_start_matches("in_")), "object": "invoice_payment",
                "amount_paid": paid.then_some(self.amount_paid), "amount_requested": self.amount_due(state),
                "created": self.finalized_at.unwrap_or(self.created), "currency": self.currency, "invoice": self.id,
                "is_default": true, "livemode": false, "payment": { "payment_intent": payment.id, "type": "payment_intent" },
                "status": status, "status_transitions": { "canceled_at": self.voided_at, "paid_at": self.paid_at } })
        })
    }
}

impl State {
    pub(crate) fn invoice(&self, id: &str) -> Result<&Invoice, Failure> {
        self.invoices.get(id).ok_or_else(|| Failure::not_found("invoice", id))
    }

    pub(crate) fn render_invoice(&self, id: &str) -> Value {
        self.invoices
            .get(id)
            .map(|invoice| invoice.render(self))
            .unwrap_or_default()
    }

    pub(crate) fn change_invoice(&mut self, id: &str, change: impl FnOnce(&mut Invoice)) {
        if let Some(invoice) = self.invoices.get_mut(id) {
            change(invoice);
        }
    }
}
