//! An invoice as its customer sees it. Pure.

use schema::period::instant;
use serde::Serialize;
use time::OffsetDateTime;

use crate::stripe::{
    decimal, names,
    object::{Invoice, InvoiceLine},
};

/// Amounts are in the currency's smallest unit.
#[derive(Clone, Debug, Serialize)]
pub struct InvoiceSummary {
    id: String,
    number: Option<String>,
    status: Option<String>,
    currency: String,
    total_cents: i64,
    amount_due_cents: i64,
    amount_paid_cents: i64,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    /// The time that the plan and the usage on the invoice are for. Of an invoice with neither: the time of all its lines.
    #[serde(with = "time::serde::rfc3339")]
    period_start: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    period_end: OffsetDateTime,
    hosted_invoice_url: Option<String>,
    invoice_pdf: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub struct InvoiceDetails {
    #[serde(flatten)]
    summary: InvoiceSummary,
    /// The sum of the lines.
    subtotal_cents: i64,
    discount_cents: i64,
    tax_cents: i64,
    amount_remaining_cents: i64,
    lines: Vec<Line>,
}

#[derive(Clone, Debug, Serialize)]
struct Line {
    kind: LineKind,
    description: Option<String>,
    plan: Option<String>,
    usage_type: Option<String>,
    quantity: Option<i64>,
    /// Millionths of the currency's main unit. `None`: there is none, or it is not a whole number of them.
    unit_price_micros: Option<i64>,
    /// Before the discount, and before tax that is not included.
    amount_cents: i64,
    discount_cents: i64,
    tax_cents: i64,
    #[serde(with = "time::serde::rfc3339")]
    period_start: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    period_end: OffsetDateTime,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum LineKind {
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

impl InvoiceSummary {
    pub fn of(invoice: Invoice, lines: &[InvoiceLine]) -> Self {
        let (start, end) = period(lines).unwrap_or((invoice.period_start, invoice.period_end));
        Self {
            id: invoice.id,
            number: invoice.number,
            status: invoice.status,
            currency: invoice.currency,
            total_cents: invoice.total,
            amount_due_cents: invoice.amount_due,
            amount_paid_cents: invoice.amount_paid,
            created_at: instant(invoice.created),
            period_start: instant(start),
            period_end: instant(end),
            hosted_invoice_url: invoice.hosted_invoice_url,
            invoice_pdf: invoice.invoice_pdf,
        }
    }
}

impl InvoiceDetails {
    pub fn of(invoice: Invoice, lines: Vec<InvoiceLine>) -> Self {
        Self {
            subtotal_cents: invoice.subtotal,
            discount_cents: invoice.discount(),
            tax_cents: invoice.tax(),
            amount_remaining_cents: invoice.amount_remaining,
            summary: InvoiceSummary::of(invoice, &lines),
            lines: lines.into_iter().map(Line::of).collect(),
        }
    }
}

impl Line {
    fn of(line: InvoiceLine) -> Self {
        let price = line.price();
        let usage_type = price.and_then(|price| price.metadata.get(names::META_USAGE_TYPE));
        Self {
            kind: LineKind::of(&line),
            plan: price.and_then(|price| price.plan()).map(str::to_owned),
            usage_type: usage_type.or(line.metadata.get(names::META_USAGE_TYPE)).cloned(),
            quantity: line.quantity,
            unit_price_micros: line.unit_amount().and_then(decimal::micros),
            amount_cents: line.amount,
            discount_cents: line.discount(),
            tax_cents: line.tax(),
            period_start: instant(line.period.start),
            period_end: instant(line.period.end),
            description: line.description,
        }
    }
}

impl LineKind {
    fn of(line: &InvoiceLine) -> Self {
        let price = line.price();
        match line.is_of_subscription() {
            true if price.is_some_and(|price| price.is_metered()) => Self::Usage,
            true if price.is_some_and(|price| price.plan().is_some()) => Self::Plan,
            true => Self::Other,
            false if line.is_proration() => Self::Proration,
            false if line.metadata.contains_key(names::META_CARRY) => Self::LateUsage,
            false => Self::Other,
        }
    }
}

/// From the first to the last second of the lines that a subscription has for its periods, or else of all lines.
fn period(lines: &[InvoiceLine]) -> Option<(i64, i64)> {
    let span = |all: &mut dyn Iterator<Item = &InvoiceLine>| {
        all.map(|line| (line.period.start, line.period.end))
            .reduce(|all, line| (all.0.min(line.0), all.1.max(line.1)))
    };
    span(&mut lines.iter().filter(|line| line.is_of_subscription())).or_else(|| span(&mut lines.iter()))
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

    fn invoice(lines: &[Value]) -> InvoiceDetails {
        let invoice = json!({ "id": "in_1", "currency": "usd", "subtotal": 3_100, "total": 3_380, "amount_due": 3_380,
            "amount_paid": 0, "amount_remaining": 3_380, "created": 2_000, "period_start": 1_000, "period_end": 2_000,
            "total_discount_amounts": [{ "amount": 310, "discount": "di_1" }], "total_taxes": [{ "amount": 590 }] });
        let lines = lines.iter().map(|line| serde_json::from_value(line.clone()).unwrap());
        InvoiceDetails::of(serde_json::from_value(invoice).unwrap(), lines.collect())
    }

    #[test]
    fn a_renewal_shows_the_month_that_it_pays_in_advance_and_the_usage_before_it() {
        let shown = invoice(&[
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
        let json = serde_json::to_value(&shown).unwrap();
        assert_eq!(
            (&json["period_start"], &json["period_end"]),
            (&json!("1970-01-01T00:16:40Z"), &json!("1970-01-01T00:50:00Z")),
            "without the item of an earlier period"
        );
        let totals = [
            "subtotal_cents",
            "discount_cents",
            "tax_cents",
            "total_cents",
            "amount_remaining_cents",
        ];
        assert_eq!(
            totals.map(|name| json[name].as_i64().unwrap()),
            [3_100, 310, 590, 3_380, 3_380]
        );
        let kinds: Vec<_> = shown.lines.iter().map(|line| line.kind).collect();
        assert_eq!(kinds, [LineKind::LateUsage, LineKind::Plan, LineKind::Usage]);
        assert_eq!(
            json["lines"][2],
            json!({ "kind": "usage", "description": "40 × export", "plan": "pro", "usage_type": "export", "quantity": 40,
                    "unit_price_micros": 50_000, "amount_cents": 200, "discount_cents": 20, "tax_cents": 34,
                    "period_start": "1970-01-01T00:16:40Z", "period_end": "1970-01-01T00:33:20Z" })
        );
        assert_eq!(json["lines"][0]["usage_type"], "export");
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
            let shown = invoice(&[credit]);
            assert_eq!(shown.lines[0].kind, LineKind::Proration);
            assert_eq!(shown.summary.period_start, instant(1_500));
        }
        let other = invoice(&[line(
            "By hand",
            500,
            (1_700, 1_700),
            json!({ "parent": of_item(false) }),
        )]);
        assert_eq!(other.lines[0].kind, LineKind::Other);
        assert_eq!(
            invoice(&[]).summary.period_start,
            instant(1_000),
            "Stripe's own, without lines"
        );
    }
}
