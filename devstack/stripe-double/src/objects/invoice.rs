//! An invoice and its lines.

use serde_json::{Value, json};

use crate::calendar;
use crate::money::Decimal;
use crate::objects::item::Item;
use crate::objects::metadata::Metadata;
use crate::objects::payment::Payment;
use crate::objects::subscription::Subscription;

#[derive(Clone, Debug)]
pub(crate) struct Invoice {
    pub id: String,
    pub customer: String,
    pub subscription: Option<String>,
    pub status: Status,
    /// `billing_reason`
    pub reason: &'static str,
    pub created: i64,
    pub period: (i64, i64),
    pub lines: Vec<Line>,
    /// Counted again each time until the invoice is finalized, when they become lines.
    pub metered: Vec<Metered>,
    pub auto_advance: bool,
    /// When a draft is finalized automatically.
    pub finalizes_at: Option<i64>,
    pub number: Option<String>,
    pub finalized_at: Option<i64>,
    pub paid_at: Option<i64>,
    pub voided_at: Option<i64>,
    pub uncollectible_at: Option<i64>,
    pub attempts: usize,
    pub next_attempt: Option<i64>,
    pub amount_paid: i64,
    /// The customer's balance before and after, once finalized.
    pub balances: Option<(i64, i64)>,
    pub currency: String,
    pub metadata: Metadata,
    pub description: Option<String>,
    /// Ids of the discounts that it has.
    pub discounts: Vec<String>,
    /// Automatic tax, in hundredths of a percent.
    pub tax_basis_points: Option<i64>,
    /// Once there is something to pay.
    pub payment: Option<Payment>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Draft,
    Open,
    Paid,
    Uncollectible,
    Void,
}

#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub id: String,
    pub amount: i64,
    pub quantity: Option<i64>,
    pub description: String,
    pub price: Option<String>,
    pub unit: Option<Decimal>,
    pub period: (i64, i64),
    pub proration: bool,
    pub subscription: Option<String>,
    pub item: Option<String>,
    pub invoice_item: Option<String>,
    pub metadata: Metadata,
}

/// A line, what comes off it and what comes on top.
#[derive(Clone, Debug)]
pub(crate) struct LineAmounts {
    pub line: Line,
    /// By discount.
    pub discounts: Vec<(String, i64)>,
    pub tax: i64,
}

/// Usage that a meter counted in `from..to`, and its price.
#[derive(Clone, Debug)]
pub(crate) struct Metered {
    pub customer: String,
    pub subscription: String,
    pub item: String,
    pub price: String,
    /// The subscription's.
    pub currency: String,
    pub from: i64,
    pub to: i64,
}

impl Status {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Draft => "draft",
            Self::Open => "open",
            Self::Paid => "paid",
            Self::Uncollectible => "uncollectible",
            Self::Void => "void",
        }
    }
}

impl LineAmounts {
    pub(crate) fn discount(&self) -> i64 {
        self.discounts.iter().map(|(_, cut)| cut).sum()
    }

    pub(crate) fn without_tax(&self) -> i64 {
        self.line.amount.saturating_sub(self.discount())
    }
}

impl Metered {
    /// The usage of a metered item, from the start of its period or its last change of price up to `to`.
    pub(crate) fn of(subscription: &Subscription, item: &Item, to: i64) -> Self {
        Self {
            customer: subscription.customer.clone(),
            subscription: subscription.id.clone(),
            item: item.id.clone(),
            price: item.price.clone(),
            currency: subscription.currency.clone(),
            from: item.period_start.max(item.usage_from),
            to,
        }
    }
}

impl Invoice {
    /// Open, and a bank debit for it is processing.
    pub(crate) fn is_processing(&self) -> bool {
        self.status == Status::Open && self.payment.as_ref().is_some_and(Payment::is_processing)
    }

    /// When the bank debit that is processing ends.
    pub(crate) fn settles_at(&self) -> Option<i64> {
        self.payment.as_ref().filter(|_| self.is_processing())?.settles_at
    }

    /// Shown when `confirmation_secret` is expanded. A page needs it to let the customer pay.
    pub(crate) fn render_confirmation_secret(&self) -> Value {
        match &self.payment {
            Some(payment) if self.status == Status::Open => {
                json!({ "client_secret": payment.client_secret, "type": "payment_intent" })
            }
            _ => Value::Null,
        }
    }

    /// `24 Nov 2026 – 24 Dec 2026`
    pub(crate) fn show_period(&self) -> String {
        format!("{} – {}", calendar::show(self.period.0), calendar::show(self.period.1))
    }
}
