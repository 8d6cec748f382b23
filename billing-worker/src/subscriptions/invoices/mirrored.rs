//! An invoice of Stripe as rows. Pure.

use schema::period::instant;
use serde::Serialize;
use time::OffsetDateTime;

use crate::stripe::{
    names,
    object::{Invoice, InvoiceLine, invoice_line::LinePeriod},
};

/// A row of `stripe_invoices`. The writer adds the account and the time.
#[derive(Debug, Serialize)]
pub(super) struct InvoiceRow<'a> {
    id: &'a str,
    customer_id: Option<&'a str>,
    subscription_id: Option<&'a str>,
    charges_subscription_id: Option<&'a str>,
    livemode: bool,
    number: Option<&'a str>,
    status: &'a str,
    billing_reason: Option<&'a str>,
    currency: &'a str,
    subtotal: i64,
    discount: i64,
    tax: i64,
    total: i64,
    amount_due: i64,
    amount_paid: i64,
    amount_remaining: i64,
    starting_balance: i64,
    ending_balance: Option<i64>,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    finalized_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339")]
    period_start: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    period_end: OffsetDateTime,
    hosted_invoice_url: Option<&'a str>,
    invoice_pdf: Option<&'a str>,
}

/// A row of `stripe_invoice_lines`.
#[derive(Debug, Serialize)]
pub(super) struct LineRow<'a> {
    invoice_id: &'a str,
    position: i32,
    id: &'a str,
    kind: &'static str,
    description: Option<&'a str>,
    plan: Option<&'a str>,
    usage_type: Option<&'a str>,
    price_id: Option<&'a str>,
    quantity: Option<i64>,
    unit_amount: Option<&'a str>,
    amount: i64,
    discount: i64,
    tax: i64,
    #[serde(with = "time::serde::rfc3339")]
    period_start: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    period_end: OffsetDateTime,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineKind {
    /// The price of a plan for a period.
    Plan,
    /// Units that were used in a period.
    Usage,
    /// A credit or a charge for the rest of a period, after a change in the middle of it.
    Proration,
    /// Units, or a credit for units, that came after the invoice of their period was final.
    LateUsage,
    /// Anything else, such as an item that an operator added in Stripe.
    Other,
}

impl<'a> InvoiceRow<'a> {
    /// `of_lines`: the time that the lines are for, see [`period`].
    pub(super) fn of(invoice: &'a Invoice, of_lines: LinePeriod) -> Self {
        Self {
            id: &invoice.id,
            customer_id: invoice.customer.as_ref().map(|customer| customer.id()),
            subscription_id: invoice.subscription(),
            charges_subscription_id: invoice.charges(),
            livemode: invoice.livemode,
            number: invoice.number.as_deref(),
            status: invoice.status(),
            billing_reason: invoice.billing_reason.as_deref(),
            currency: &invoice.currency,
            subtotal: invoice.subtotal,
            discount: invoice.discount(),
            tax: invoice.tax(),
            total: invoice.total,
            amount_due: invoice.amount_due,
            amount_paid: invoice.amount_paid,
            amount_remaining: invoice.amount_remaining,
            starting_balance: invoice.starting_balance,
            ending_balance: invoice.ending_balance,
            created_at: instant(invoice.created),
            finalized_at: invoice.status_transitions.finalized_at.map(instant),
            period_start: instant(of_lines.start),
            period_end: instant(of_lines.end),
            hosted_invoice_url: invoice.hosted_invoice_url.as_deref(),
            invoice_pdf: invoice.invoice_pdf.as_deref(),
        }
    }
}

impl<'a> LineRow<'a> {
    pub(super) fn of(invoice: &'a str, position: i32, line: &'a InvoiceLine) -> Self {
        let price = line.price();
        Self {
            invoice_id: invoice,
            position,
            id: &line.id,
            kind: kind(line).as_str(),
            description: line.description.as_deref(),
            plan: price.and_then(|price| price.plan()),
            usage_type: line.usage_type(),
            price_id: line.price_id(),
            quantity: line.quantity,
            unit_amount: line.unit_amount(),
            amount: line.amount,
            discount: line.discount(),
            tax: line.tax(),
            period_start: instant(line.period.start),
            period_end: instant(line.period.end),
        }
    }
}

impl LineKind {
    /// In rows.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plan => "plan",
            Self::Usage => "usage",
            Self::Proration => "proration",
            Self::LateUsage => "late_usage",
            Self::Other => "other",
        }
    }
}

/// What a line is for.
pub fn kind(line: &InvoiceLine) -> LineKind {
    let price = line.price();
    match line.is_of_subscription() {
        true if price.is_some_and(|price| price.is_metered()) => LineKind::Usage,
        true if price.is_some_and(|price| price.plan().is_some()) => LineKind::Plan,
        true => LineKind::Other,
        false if line.is_proration() => LineKind::Proration,
        false if line.metadata.contains_key(names::META_CARRY) => LineKind::LateUsage,
        false => LineKind::Other,
    }
}

/// From the first to the last second of the lines that a subscription has for its periods, or else of all lines, or else Stripe's
/// own.
pub(super) fn period(invoice: &Invoice, lines: &[InvoiceLine]) -> LinePeriod {
    let span = |all: &mut dyn Iterator<Item = &InvoiceLine>| {
        all.map(|line| line.period).reduce(|all, line| LinePeriod {
            start: all.start.min(line.start),
            end: all.end.max(line.end),
        })
    };
    span(&mut lines.iter().filter(|line| line.is_of_subscription()))
        .or_else(|| span(&mut lines.iter()))
        .unwrap_or(LinePeriod {
            start: invoice.period_start,
            end: invoice.period_end,
        })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn line(id: &str, amount: i64, period: (i64, i64), more: Value) -> Value {
        let mut line = json!({ "id": id, "amount": amount, "description": id, "quantity": 1,
            "period": { "start": period.0, "end": period.1 }, "metadata": {}, "discount_amounts": [], "taxes": [] });
        line.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        line
    }

    fn of_subscription(proration: bool) -> Value {
        json!({ "type": "subscription_item_details", "invoice_item_details": null,
                "subscription_item_details": { "proration": proration, "subscription": "sub_1" } })
    }

    fn of_item(proration: bool) -> Value {
        json!({ "type": "invoice_item_details", "subscription_item_details": null,
                "invoice_item_details": { "proration": proration, "invoice_item": "ii_1" } })
    }

    fn pricing(unit: &str, usage_type: Option<&str>) -> Value {
        let mut metadata = json!({ "trendit_plan": "pro" });
        if let Some(usage_type) = usage_type {
            metadata["trendit_usage_type"] = usage_type.into();
        }
        let usage = if usage_type.is_some() { "metered" } else { "licensed" };
        let price = json!({ "id": "price_1", "currency": "usd", "product": "prod_1", "metadata": metadata,
            "recurring": { "usage_type": usage, "meter": null } });
        json!({ "unit_amount_decimal": unit, "price_details": { "price": price, "product": "prod_1" } })
    }

    /// The rows of an invoice with these lines, as they are written.
    fn rows(lines: &[Value]) -> (Value, Vec<Value>) {
        let invoice = json!({ "id": "in_1", "currency": "usd", "subtotal": 3_100, "total": 3_380, "amount_due": 3_380,
            "amount_paid": 0, "amount_remaining": 3_380, "created": 2_000, "period_start": 1_000, "period_end": 2_000,
            "total_discount_amounts": [{ "amount": 310, "discount": "di_1" }], "total_taxes": [{ "amount": 590 }] });
        let invoice: Invoice = serde_json::from_value(invoice).unwrap();
        let lines = lines.iter().map(|line| serde_json::from_value(line.clone()).unwrap());
        let lines: Vec<InvoiceLine> = lines.collect();
        let row = InvoiceRow::of(&invoice, period(&invoice, &lines));
        let lines = (0..)
            .zip(&lines)
            .map(|(position, line)| json!(LineRow::of("in_1", position, line)));
        (json!(row), lines.collect())
    }

    #[test]
    fn a_renewal_shows_the_month_that_it_pays_in_advance_and_the_usage_before_it() {
        let (invoice, lines) = rows(&[
            line(
                "Late usage",
                50,
                (100, 1_000),
                json!({ "parent": of_item(false), "metadata": { "trendit_carry": "c", "trendit_usage_type": "export" } }),
            ),
            line(
                "1 × Pro",
                2_900,
                (2_000, 3_000),
                json!({ "parent": of_subscription(false), "pricing": pricing("2900", None) }),
            ),
            line(
                "40 × export",
                200,
                (1_000, 2_000),
                json!({ "parent": of_subscription(false), "pricing": pricing("5", Some("export")), "quantity": 40,
                        "discount_amounts": [{ "amount": 20, "discount": "di_1" }], "taxes": [{ "amount": 34 }] }),
            ),
        ]);
        assert_eq!(
            (&invoice["period_start"], &invoice["period_end"]),
            (&json!("1970-01-01T00:16:40Z"), &json!("1970-01-01T00:50:00Z")),
            "without the item of an earlier period"
        );
        let totals = ["subtotal", "discount", "tax", "total", "amount_remaining"];
        assert_eq!(
            totals.map(|name| invoice[name].as_i64().unwrap()),
            [3_100, 310, 590, 3_380, 3_380]
        );
        let kinds: Vec<_> = lines.iter().map(|line| line["kind"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["late_usage", "plan", "usage"]);
        assert_eq!(
            lines[2],
            json!({ "invoice_id": "in_1", "position": 2, "id": "40 × export", "kind": "usage", "description": "40 × export",
                    "plan": "pro", "usage_type": "export", "price_id": "price_1", "quantity": 40, "unit_amount": "5",
                    "amount": 200, "discount": 20, "tax": 34, "period_start": "1970-01-01T00:16:40Z",
                    "period_end": "1970-01-01T00:33:20Z" })
        );
        assert_eq!(lines[0]["usage_type"], "export");
    }

    #[test]
    fn an_upgrade_shows_the_time_of_its_prorations() {
        for parent in [of_subscription(true), of_item(true)] {
            let credit = line(
                "Unused",
                -1_000,
                (1_500, 2_000),
                json!({ "parent": parent, "pricing": null }),
            );
            let (invoice, lines) = rows(&[credit]);
            assert_eq!(lines[0]["kind"], "proration");
            assert_eq!(invoice["period_start"], "1970-01-01T00:25:00Z");
        }
        let (_, other) = rows(&[line(
            "By hand",
            500,
            (1_700, 1_700),
            json!({ "parent": of_item(false) }),
        )]);
        assert_eq!(other[0]["kind"], "other");
        let (empty, _) = rows(&[]);
        assert_eq!(
            empty["period_start"], "1970-01-01T00:16:40Z",
            "Stripe's own, without lines"
        );
    }
}
