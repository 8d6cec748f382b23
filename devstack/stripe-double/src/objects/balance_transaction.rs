//! A change of a customer's balance. A negative amount is a credit for the next invoices.

use serde_json::{Value, json};

use crate::objects::metadata::Metadata;

#[derive(Clone, Debug)]
pub(crate) struct BalanceTransaction {
    pub id: String,
    pub customer: String,
    pub currency: String,
    pub created: i64,
    /// The balance after it.
    pub ending_balance: i64,
    pub change: BalanceChange,
}

/// What changes a balance, and why.
#[derive(Clone, Debug, Default)]
pub(crate) struct BalanceChange {
    pub amount: i64,
    /// `applied_to_invoice` and so on.
    pub kind: &'static str,
    pub invoice: Option<String>,
    pub credit_note: Option<String>,
    pub description: Option<String>,
    pub metadata: Metadata,
}

impl BalanceChange {
    pub(crate) fn of(kind: &'static str, amount: i64) -> Self {
        Self {
            amount,
            kind,
            ..Self::default()
        }
    }

    pub(crate) fn of_invoice(kind: &'static str, amount: i64, invoice: &str) -> Self {
        Self {
            invoice: Some(invoice.to_owned()),
            ..Self::of(kind, amount)
        }
    }
}

impl BalanceTransaction {
    pub(crate) fn render(&self) -> Value {
        let change = &self.change;
        json!({
            "id": self.id, "object": "customer_balance_transaction", "amount": change.amount, "checkout_session": null,
            "created": self.created, "credit_note": change.credit_note, "currency": self.currency, "customer": self.customer,
            "description": change.description, "ending_balance": self.ending_balance, "invoice": change.invoice,
            "livemode": false, "metadata": change.metadata, "type": change.kind,
        })
    }
}
