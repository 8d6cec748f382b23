//! Compares the invoices that a step has made with what it should have billed.

use std::collections::{BTreeMap, HashSet};

use anyhow::Result;

use super::{
    amounts::Billed,
    report::{Report, money},
    worker::Worker,
};
use crate::{stripe::object::Invoice, subscriptions::invoices::fetch};

/// The final invoices of a step, with the amounts of their lines.
pub(super) struct Made {
    pub invoices: Vec<Invoice>,
    pub amounts: BTreeMap<Billed, i64>,
    /// The quantities of the lines of usage.
    pub quantities: Vec<i64>,
}

/// The final invoices that were seen already.
#[derive(Default)]
pub(super) struct Seen(HashSet<String>);

impl Seen {
    /// Reads the invoices that are final and that no earlier step has seen, with their lines, from Stripe. Void ones bill nothing.
    pub(super) async fn read(&mut self, worker: &Worker) -> Result<Made> {
        let mut made = Made {
            invoices: Vec::new(),
            amounts: BTreeMap::new(),
            quantities: Vec::new(),
        };
        for invoice in worker.invoices().await? {
            if invoice.status() == "draft" || !self.0.insert(invoice.id.clone()) || invoice.status() == "void" {
                continue;
            }
            for line in fetch::lines(worker.billing.stripe()?, &invoice.id).await? {
                let billed = Billed::of(&line);
                if billed.is_usage() {
                    made.quantities.extend(line.quantity);
                }
                *made.amounts.entry(billed).or_default() += line.amount;
            }
            made.invoices.push(invoice);
        }
        Ok(made)
    }
}

impl Made {
    /// One row for each line, and one for the number of invoices.
    pub(super) fn compare(
        &self,
        report: &mut Report,
        step: &'static str,
        expected: impl IntoIterator<Item = (Billed, i64)>,
    ) {
        report.compare(step, "invoices", 1, self.invoices.len());
        let mut ours = BTreeMap::new();
        for (billed, cents) in expected {
            *ours.entry(billed).or_insert(0) += cents;
        }
        for (billed, cents) in &ours {
            report.compare(
                step,
                billed,
                money(*cents),
                self.amounts
                    .get(billed)
                    .map_or("no line".to_owned(), |cents| money(*cents)),
            );
        }
        // A metered item without usage has a line of nothing.
        let others = self
            .amounts
            .iter()
            .filter(|(billed, cents)| !ours.contains_key(billed) && **cents != 0);
        for (billed, cents) in others {
            report.compare(step, billed, "no line", money(*cents));
        }
    }

    pub(super) fn usage_lines(&self) -> usize {
        self.quantities.len()
    }

    pub(super) fn has_proration(&self) -> bool {
        self.amounts.keys().any(Billed::is_proration)
    }
}
