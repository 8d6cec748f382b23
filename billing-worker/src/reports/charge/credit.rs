//! Credits for usage that was billed and then corrected: credit notes of the invoices that billed it.
//!
//! A credit note names the invoice and the line, and returns their tax and discount too. What the customer has paid goes to the
//! customer's balance, which pays the next invoices. What is not paid yet is no longer asked for.

mod note;
mod source;

use anyhow::Result;
use protocol::reports::allocate::{Billed, allocate};
use stripe_billing::credit_note::{CreateCreditNote, CreateCreditNoteLines, CreateCreditNoteLinesType};

use self::{
    note::CreditNote,
    source::{Source, Sources},
};
use super::{
    late::{Charged, Late},
    settle::begin,
};
use crate::{
    reports::Reporter,
    stripe::{StripeError, Write, names, object::InvoiceLine},
};

/// Returns `-amount` to the customer. `None`: another worker has the carry.
pub(super) async fn give(
    reporter: &Reporter,
    late: &Late,
    amount: i64,
    currency: String,
    now: i64,
) -> Result<Option<Charged>> {
    let Sources { billed, is_incomplete } = source::find(reporter, late).await?;
    let mut notes: Vec<_> = billed.iter().flat_map(|source| source.ours.clone()).collect();
    let mut given: i64 = billed.iter().map(|source| source.given).sum();
    let parts = spread(-amount - given, &billed);
    if parts.iter().any(|part| !part.is_empty()) && !begin(reporter, late, amount, &currency, now).await? {
        return Ok(None);
    }
    for (source, part) in billed.iter().zip(&parts).filter(|(_, part)| !part.is_empty()) {
        notes.push(create(reporter, late, source, part).await?);
        given += part.iter().map(|(_, amount)| amount).sum::<i64>();
    }
    if given < -amount && is_incomplete {
        let why = "the invoice that bills these units is not final";
        return Ok(Some(Charged::NotYet { why }));
    }
    Ok(Some(match notes.is_empty() {
        true => Charged::Nothing {
            why: "no invoice that the customer has to pay bills these units",
        },
        false => Charged::Credit {
            short: (given < -amount).then_some("the invoices have less left to credit than these units cost"),
            notes,
            amount: -given,
            currency,
        },
    }))
}

/// What to credit of each source: its lines, with amounts that are not 0.
fn spread(credit: i64, sources: &[Source]) -> Vec<Vec<(&InvoiceLine, i64)>> {
    let mut billed = Vec::new();
    for (invoice, source) in sources.iter().enumerate() {
        billed.extend(source.lines.iter().map(|line| Billed {
            left: source.left(line),
            invoice,
        }));
    }
    let rooms: Vec<_> = sources.iter().map(|source| source.room).collect();
    let mut amounts = allocate(credit, &billed, &rooms).into_iter();
    let mut parts = Vec::new();
    for source in sources {
        let lines = source.lines.iter().zip(amounts.by_ref());
        parts.push(lines.filter(|(_, amount)| *amount > 0).collect());
    }
    parts
}

async fn create(
    reporter: &Reporter,
    late: &Late,
    source: &Source,
    part: &[(&InvoiceLine, i64)],
) -> Result<String, StripeError> {
    let lines: Vec<_> = part
        .iter()
        .map(|(line, amount)| CreateCreditNoteLines {
            amount: Some(*amount),
            invoice_line_item: Some(line.id.clone()),
            ..CreateCreditNoteLines::new(CreateCreditNoteLinesType::InvoiceLineItem)
        })
        .collect();
    let invoice = &source.invoice;
    let total: i64 = part.iter().map(|(line, amount)| total(line, *amount)).sum();
    let mut request = CreateCreditNote::new(invoice.id.as_str())
        .lines(lines)
        .memo(format!("Correction: {} units of {}", late.units, late.usage_type))
        .metadata([
            (names::META_CARRY.to_owned(), late.id.to_string()),
            (names::META_USAGE_TYPE.to_owned(), late.usage_type.clone()),
        ]);
    // What is not paid is credited by asking for less.
    let paid = total - invoice.amount_remaining;
    if paid > 0 {
        request = request.credit_amount(paid);
    }
    let key = format!("carry/{}/{}/{}", late.id, late.attempts + 1, invoice.id);
    let made: CreditNote = reporter.stripe.write(&request, Write::Keyed(&key)).await?;
    Ok(made.id)
}

/// A part of a line, with the same part of its discount and tax.
fn total(line: &InvoiceLine, amount: i64) -> i64 {
    let share = |of: i64| {
        let (exact, whole) = (i128::from(of) * i128::from(amount), i128::from(line.amount.max(1)));
        i64::try_from((2 * exact + whole).div_euclid(2 * whole)).unwrap_or(of)
    };
    amount - share(line.discount()) + share(line.tax())
}
