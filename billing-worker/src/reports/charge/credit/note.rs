//! Credit notes in Stripe.

use std::collections::HashMap;

use serde::Deserialize;
use stripe_billing::{credit_note::ListCreditNote, credit_note_line_item::ListCreditNoteCreditNoteLineItem};

use crate::stripe::{Stripe, StripeError, object::List};

/// Pages of a hundred credit notes of one invoice, and of lines of one credit note.
const PAGES_MAX: usize = 10;

/// (<https://docs.stripe.com/api/credit_notes/object>)
#[derive(Deserialize)]
pub(super) struct CreditNote {
    pub(super) id: String,
    /// With tax, and after discounts.
    pub(super) amount: i64,
    status: String,
    #[serde(default)]
    pub(super) metadata: HashMap<String, String>,
    pub(super) lines: List<CreditLine>,
}

#[derive(Deserialize)]
pub(super) struct CreditLine {
    id: String,
    /// Before discount and tax.
    pub(super) amount: i64,
    /// `None`: it credits no line of the invoice.
    pub(super) invoice_line_item: Option<String>,
}

impl CreditNote {
    pub(super) fn is_void(&self) -> bool {
        self.status == "void"
    }
}

/// All credit notes of an invoice with all their lines.
pub(super) async fn all(stripe: &Stripe, invoice: &str) -> Result<Vec<CreditNote>, StripeError> {
    let page = |after: Option<String>| {
        let list = ListCreditNote::new().invoice(invoice).limit(100);
        match after {
            Some(after) => list.starting_after(after),
            None => list,
        }
    };
    let mut notes = stripe.pages(PAGES_MAX, page, |note: &CreditNote| &note.id).await?;
    for note in notes.iter_mut().filter(|note| note.lines.has_more) {
        let page = |after: Option<String>| {
            let list = ListCreditNoteCreditNoteLineItem::new(note.id.as_str()).limit(100);
            match after {
                Some(after) => list.starting_after(after),
                None => list,
            }
        };
        note.lines.data = stripe.pages(PAGES_MAX, page, |line: &CreditLine| &line.id).await?;
    }
    Ok(notes)
}
