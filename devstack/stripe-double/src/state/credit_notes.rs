//! Finds, adds up and renders credit notes.

use serde_json::Value;

use crate::objects::credit_note::CreditNote;
use crate::state::State;

/// The credit notes of an invoice that are not void.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Credited {
    pub pre_payment: i64,
    pub post_payment: i64,
    /// Void ones too.
    pub count: usize,
}

impl State {
    fn credit_notes_of(&self, invoice: &str) -> impl Iterator<Item = &CreditNote> {
        let notes = self.credit_notes.iter().map(|(_, note)| note);
        notes.filter(move |note| note.invoice == invoice)
    }

    pub(crate) fn credited(&self, invoice: &str) -> Credited {
        let mut credited = Credited::default();
        for note in self.credit_notes_of(invoice) {
            credited.count += 1;
            if !note.is_void() {
                credited.pre_payment += note.pre_payment;
                credited.post_payment += note.post_payment;
            }
        }
        credited
    }

    /// What was credited of an invoice's line, before discount and tax.
    pub(crate) fn credited_of_line(&self, invoice: &str, line: &str) -> i64 {
        let notes = self.credit_notes_of(invoice).filter(|note| !note.is_void());
        let lines = notes.flat_map(|note| &note.lines);
        lines
            .filter(|credit| credit.invoice_line.as_deref() == Some(line))
            .map(|credit| credit.amount)
            .sum()
    }

    pub(crate) fn render_credit_note(&self, id: &str) -> Value {
        let note = self.credit_notes.get(id);
        note.map(|note| note.render(&self.url)).unwrap_or_default()
    }
}
