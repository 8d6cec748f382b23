//! The invoices that billed units, and what credit notes have already returned of them.

use std::collections::HashMap;

use anyhow::Result;
use protocol::reports::period::BilledBy;

use super::note::{self, CreditNote};
use crate::{
    reports::{
        Reporter,
        charge::{
            item,
            late::{Late, charges},
        },
    },
    stripe::{
        StripeError, names,
        object::{Invoice, InvoiceLine},
    },
    subscriptions::invoices::fetch,
};

/// An invoice that billed units of the line.
pub(super) struct Source {
    pub(super) invoice: Invoice,
    /// Those that billed the units.
    pub(super) lines: Vec<InvoiceLine>,
    /// What can still be credited of the whole invoice.
    pub(super) room: i64,
    /// The credit notes that earlier attempts for this carry made, and their sum.
    pub(super) ours: Vec<String>,
    pub(super) given: i64,
    /// What all credit notes have credited, by line.
    credited: HashMap<String, i64>,
}

pub(super) struct Sources {
    pub(super) billed: Vec<Source>,
    /// An invoice or an item of the line is not final yet.
    pub(super) is_incomplete: bool,
}

/// The final invoices that billed units of the carry's line: those of its late usage, latest first, and that of the period.
pub(super) async fn find(reporter: &Reporter, late: &Late) -> Result<Sources> {
    let mut sources = Sources {
        billed: Vec::new(),
        is_incomplete: false,
    };
    let stripe = &reporter.stripe;
    for (carry, item) in charges(&reporter.db, late).await? {
        let Some(invoice) = item::invoice_of(reporter, &item).await? else {
            sources.is_incomplete = true;
            continue;
        };
        let invoice = fetch::invoice(stripe, &invoice).await?;
        let of_item = |line: &InvoiceLine| line.metadata.get(names::META_CARRY) == Some(&carry);
        sources.add(reporter, invoice, of_item).await?;
    }
    let end = late.bills_at;
    let of_subscription = match late.billed_by {
        BilledBy::Invoice => fetch::of_period(stripe, &late.subscription, end).await?,
        BilledBy::Charge => Vec::new(),
    };
    for invoice in of_subscription {
        let of_period = |line: &InvoiceLine| {
            line.price_id() == late.price.as_deref()
                && line.period.start < end
                && line.period.end > late.from_period
                && !line.metadata.contains_key(names::META_CARRY)
        };
        sources.add(reporter, invoice, of_period).await?;
    }
    for source in &mut sources.billed {
        for note in note::all(stripe, &source.invoice.id).await? {
            source.count(note, late);
        }
    }
    Ok(sources)
}

impl Sources {
    async fn add(
        &mut self,
        reporter: &Reporter,
        invoice: Invoice,
        is_wanted: impl Fn(&InvoiceLine) -> bool,
    ) -> Result<(), StripeError> {
        match invoice.status() {
            "draft" => self.is_incomplete = true,
            "void" => {}
            _ => {
                let mut lines = fetch::lines(&reporter.stripe, &invoice.id).await?;
                lines.retain(|line| is_wanted(line) && line.amount > 0);
                match self.billed.iter_mut().find(|known| known.invoice.id == invoice.id) {
                    Some(known) => known.lines.extend(lines),
                    None => self.billed.push(Source::new(invoice, lines)),
                }
            }
        }
        Ok(())
    }
}

impl Source {
    fn new(invoice: Invoice, lines: Vec<InvoiceLine>) -> Self {
        Self {
            room: invoice.total,
            invoice,
            lines,
            ours: Vec::new(),
            given: 0,
            credited: HashMap::new(),
        }
    }

    /// What can still be credited of one of its lines, before discount and tax.
    pub(super) fn left(&self, line: &InvoiceLine) -> i64 {
        line.amount - self.credited.get(&line.id).copied().unwrap_or(0)
    }

    fn count(&mut self, note: CreditNote, late: &Late) {
        if note.is_void() {
            return;
        }
        self.room -= note.amount;
        for line in &note.lines.data {
            if let Some(of) = &line.invoice_line_item {
                *self.credited.entry(of.clone()).or_default() += line.amount;
            }
        }
        if note.metadata.get(names::META_CARRY) == Some(&late.id.to_string()) {
            self.given += note.lines.data.iter().map(|line| line.amount).sum::<i64>();
            self.ours.push(note.id);
        }
    }
}
