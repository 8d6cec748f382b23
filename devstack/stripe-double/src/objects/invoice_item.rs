//! An invoice item: a line that waits for a customer's next invoice.

use crate::objects::invoice::Line;

#[derive(Clone, Debug)]
pub(crate) struct InvoiceItem {
    pub id: String,
    pub customer: String,
    pub date: i64,
    pub currency: String,
    /// As it will stand on the invoice.
    pub line: Line,
    /// The invoice that it is on; none yet: pending.
    pub invoice: Option<String>,
    pub deleted: bool,
}
