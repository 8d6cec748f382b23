//! Coupons, the promotion codes that give them to customers, and the discounts that they become.

use serde_json::{Value, json};

use crate::calendar::{self, Interval};
use crate::money::share;
use crate::objects::metadata::Metadata;

#[derive(Clone, Debug)]
pub(crate) struct Coupon {
    pub id: String,
    pub name: Option<String>,
    pub off: Off,
    pub duration: Duration,
    pub max_redemptions: Option<i64>,
    pub redeem_by: Option<i64>,
    pub redeemed: i64,
    pub metadata: Metadata,
    pub created: i64,
    pub deleted: bool,
}

/// What a discount takes off an invoice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Off {
    /// In hundredths of a percent.
    Percent(i32),
    /// Cents, and their currency.
    Amount(i64, String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Duration {
    Once,
    Months(i64),
    Forever,
}

#[derive(Clone, Debug)]
pub(crate) struct PromotionCode {
    pub id: String,
    pub code: String,
    pub coupon: String,
    pub active: bool,
    pub customer: Option<String>,
    pub expires_at: Option<i64>,
    pub max_redemptions: Option<i64>,
    pub redeemed: i64,
    pub metadata: Metadata,
    pub created: i64,
}

/// A coupon, and the promotion code by which it was found.
pub(crate) type Redeemed = (String, Option<String>);

/// A coupon that a subscription has.
#[derive(Clone, Debug)]
pub(crate) struct Discount {
    pub id: String,
    pub coupon: String,
    pub promotion_code: Option<String>,
    pub customer: String,
    pub subscription: String,
    pub start: i64,
    /// None: forever, or for one invoice.
    pub end: Option<i64>,
    pub off: Off,
    pub is_for_one_invoice: bool,
    /// The one invoice exists.
    pub is_used: bool,
}

/// What these discounts take off an amount, and the tax on the rest.
pub(crate) fn discount_and_tax(amount: i64, offs: &[Off], tax_basis_points: Option<i64>) -> (i64, i64) {
    let mut left = amount;
    for off in offs {
        left -= match off {
            Off::Percent(hundredths) => share(left, i64::from(*hundredths), 10_000),
            Off::Amount(cents, _) => (*cents).min(left.max(0)),
        };
    }
    (amount - left, share(left, tax_basis_points.unwrap_or(0), 10_000))
}

impl Coupon {
    pub(crate) fn is_valid(&self, now: i64) -> bool {
        !self.deleted
            && self.redeem_by.is_none_or(|by| now <= by)
            && self.max_redemptions.is_none_or(|max| self.redeemed < max)
    }

    pub(crate) fn has_currency(&self, currency: &str) -> bool {
        !matches!(&self.off, Off::Amount(_, own) if own != currency)
    }

    pub(crate) fn end(&self, start: i64) -> Option<i64> {
        match self.duration {
            Duration::Months(months) => Some(calendar::nth(start, Interval::Month, 1, months)),
            Duration::Once | Duration::Forever => None,
        }
    }

    pub(crate) fn render(&self, now: i64) -> Value {
        if self.deleted {
            return json!({ "id": self.id, "object": "coupon", "deleted": true });
        }
        let (percent, amount, currency) = match &self.off {
            Off::Percent(hundredths) => (Some(f64::from(*hundredths) / 100.0), None, None),
            Off::Amount(cents, currency) => (None, Some(cents), Some(currency)),
        };
        let (duration, months) = match self.duration {
            Duration::Once => ("once", None),
            Duration::Months(months) => ("repeating", Some(months)),
            Duration::Forever => ("forever", None),
        };
        json!({
            "id": self.id, "object": "coupon", "amount_off": amount, "created": self.created, "currency": currency,
            "duration": duration, "duration_in_months": months, "livemode": false, "max_redemptions": self.max_redemptions,
            "metadata": self.metadata, "name": self.name, "percent_off": percent, "redeem_by": self.redeem_by,
            "times_redeemed": self.redeemed, "valid": self.is_valid(now),
        })
    }
}

impl PromotionCode {
    pub(crate) fn is_valid(&self, customer: Option<&str>, now: i64) -> bool {
        let is_theirs = self.customer.is_none() || self.customer.as_deref() == customer;
        self.active
            && is_theirs
            && self.expires_at.is_none_or(|at| now < at)
            && self.max_redemptions.is_none_or(|max| self.redeemed < max)
    }

    pub(crate) fn render(&self) -> Value {
        json!({
            "id": self.id, "object": "promotion_code", "active": self.active, "code": self.code, "created": self.created,
            "customer": self.customer, "expires_at": self.expires_at, "livemode": false,
            "max_redemptions": self.max_redemptions, "metadata": self.metadata,
            "promotion": { "coupon": self.coupon, "type": "coupon" },
            "restrictions": { "first_time_transaction": false, "minimum_amount": null, "minimum_amount_currency": null },
            "times_redeemed": self.redeemed,
        })
    }
}

impl Discount {
    /// Whether an invoice of this time has it.
    pub(crate) fn is_running(&self, at: i64) -> bool {
        !self.is_used && self.end.is_none_or(|end| at < end)
    }

    pub(crate) fn render(&self) -> Value {
        json!({
            "id": self.id, "object": "discount", "checkout_session": null, "customer": self.customer, "end": self.end,
            "invoice": null, "invoice_item": null, "promotion_code": self.promotion_code,
            "source": { "coupon": self.coupon, "type": "coupon" }, "start": self.start,
            "subscription": self.subscription, "subscription_item": null,
        })
    }
}
