//! Invoices, credit notes and changes of the balance, wherever they were read.

use std::collections::HashMap;

use protocol::reports::money::usage::LineStatus;
use schema::AccountId;

/// Where invoices and credit notes are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The copies in PostgreSQL.
    Copies,
    /// Stripe itself: a line that somebody deleted there is found.
    Stripe,
}

#[derive(Debug, Default)]
pub(super) struct Found {
    pub invoices: HashMap<AccountId, Vec<FoundInvoice>>,
    /// What credit notes credit of the lines; 0: void, `None`: not known.
    pub notes: HashMap<String, Option<i64>>,
    /// What credit notes return of paid invoices, tax included. Only Stripe says it.
    pub returned: HashMap<String, i64>,
    /// Of the customer's balance. Only Stripe has them.
    pub balance: HashMap<AccountId, Vec<FoundChange>>,
}

#[derive(Clone, Debug)]
pub(super) struct FoundChange {
    pub id: String,
    pub amount: i64,
    pub note: Option<String>,
    pub is_adjustment: bool,
    pub created: i64,
}

#[derive(Clone, Debug)]
pub(super) struct FoundInvoice {
    pub id: String,
    pub subscription: Option<String>,
    pub status: LineStatus,
    /// It bills a period that ended.
    pub is_renewal: bool,
    pub created: i64,
    pub lines: Vec<FoundLine>,
}

#[derive(Clone, Debug)]
pub(super) struct FoundLine {
    pub kind: String,
    pub usage_type: Option<String>,
    pub price: Option<String>,
    pub quantity: i64,
    pub amount: i64,
    pub from: i64,
    pub to: i64,
}

impl FoundInvoice {
    pub(super) fn status_of(status: &str) -> LineStatus {
        match status {
            "draft" => LineStatus::Draft,
            "void" => LineStatus::Void,
            _ => LineStatus::Final,
        }
    }

    pub(super) fn is_renewal_reason(reason: Option<&str>) -> bool {
        reason == Some("subscription_cycle")
    }
}

impl Found {
    /// The lines of an account, each with its invoice.
    pub(super) fn lines(&self, account: AccountId) -> impl Iterator<Item = (&FoundInvoice, &FoundLine)> + Clone {
        let invoices = self.invoices.get(&account).into_iter().flatten();
        invoices.flat_map(|invoice| invoice.lines.iter().map(move |line| (invoice, line)))
    }
}
