//! A credit note: it lowers what an invoice charges, after the invoice is final.

use serde_json::{Value, json};

use crate::money::Decimal;
use crate::objects::metadata::Metadata;

#[derive(Clone, Debug)]
pub(crate) struct CreditNote {
    pub id: String,
    pub number: String,
    pub customer: String,
    pub invoice: String,
    pub currency: String,
    pub lines: Vec<CreditLine>,
    pub memo: Option<String>,
    pub reason: Option<String>,
    pub metadata: Metadata,
    pub created: i64,
    pub voided_at: Option<i64>,
    /// What it takes off the amount that is still due.
    pub pre_payment: i64,
    /// What it gives back of a paid amount: as credit on the balance, or outside of Stripe.
    pub post_payment: i64,
    pub out_of_band: i64,
    pub balance_transaction: Option<String>,
}

#[derive(Clone, Debug)]
pub(crate) struct CreditLine {
    pub id: String,
    /// Before discount and tax.
    pub amount: i64,
    pub discount: i64,
    pub tax: i64,
    pub description: Option<String>,
    /// The line of the invoice that it credits; none: a line of its own.
    pub invoice_line: Option<String>,
    pub quantity: Option<i64>,
    pub unit: Option<Decimal>,
    pub metadata: Metadata,
}

impl CreditLine {
    pub(crate) fn total(&self) -> i64 {
        self.amount - self.discount + self.tax
    }

    pub(crate) fn render(&self) -> Value {
        let kind = if self.invoice_line.is_some() {
            "invoice_line_item"
        } else {
            "custom_line_item"
        };
        json!({
            "id": self.id, "object": "credit_note_line_item", "amount": self.amount, "description": self.description,
            "discount_amount": self.discount, "discount_amounts": [], "invoice_line_item": self.invoice_line,
            "livemode": false, "metadata": self.metadata, "pretax_credit_amounts": [], "quantity": self.quantity,
            "tax_rates": [], "taxes": taxes(self.tax, self.amount - self.discount), "type": kind,
            "unit_amount": self.unit.and_then(Decimal::as_cents),
            "unit_amount_decimal": self.unit.map(|unit| unit.to_string()),
        })
    }
}

impl CreditNote {
    pub(crate) fn total(&self) -> i64 {
        self.lines.iter().map(CreditLine::total).sum()
    }

    pub(crate) fn is_void(&self) -> bool {
        self.voided_at.is_some()
    }

    pub(crate) fn render(&self, url: &str) -> Value {
        let sum = |part: fn(&CreditLine) -> i64| self.lines.iter().map(part).sum::<i64>();
        let (amount, discount, tax) = (sum(|line| line.amount), sum(|line| line.discount), sum(|line| line.tax));
        let kind = match (self.pre_payment, self.post_payment) {
            (_, 0) => "pre_payment",
            (0, _) => "post_payment",
            _ => "mixed",
        };
        let lines: Vec<_> = self.lines.iter().map(CreditLine::render).collect();
        json!({
            "id": self.id, "object": "credit_note", "amount": self.total(), "amount_shipping": 0, "created": self.created,
            "currency": self.currency, "customer": self.customer,
            "customer_balance_transaction": self.balance_transaction, "discount_amount": discount, "discount_amounts": [],
            "effective_at": self.created, "invoice": self.invoice,
            "lines": { "object": "list", "data": lines, "has_more": false, "url": format!("/v1/credit_notes/{}/lines", self.id) },
            "livemode": false, "memo": self.memo, "metadata": self.metadata, "number": self.number,
            "out_of_band_amount": (self.out_of_band > 0).then_some(self.out_of_band),
            "pdf": format!("{url}/i/{}/pdf", self.invoice), "post_payment_amount": self.post_payment,
            "pre_payment_amount": self.pre_payment, "pretax_credit_amounts": [], "reason": self.reason, "refunds": [],
            "shipping_cost": null, "status": if self.is_void() { "void" } else { "issued" }, "subtotal": amount,
            "subtotal_excluding_tax": amount, "total": self.total(), "total_excluding_tax": amount - discount,
            "total_taxes": taxes(tax, amount - discount), "type": kind, "voided_at": self.voided_at,
        })
    }
}

/// The double has one tax rate.
pub(crate) fn taxes(tax: i64, taxable: i64) -> Value {
    if tax == 0 {
        return json!([]);
    }
    json!([{ "amount": tax, "tax_behavior": "exclusive", "tax_rate_details": { "tax_rate": "txr_double" },
        "taxability_reason": "standard_rated", "taxable_amount": taxable, "type": "tax_rate_details" }])
}
