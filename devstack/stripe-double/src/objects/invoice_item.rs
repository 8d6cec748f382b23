//! An invoice item: a line that waits for a customer's next invoice.

use crate::objects::invoice::Line;

#[derive(Clone, Debug)]
pub(crate) struct InvoiceItem {
    pub id: String,
    pub customer: String,
    pub date: i64,
    pub currency: String,
    /// The line as the invoice will show it.
    pub line: Line,
    /// The invoice that has this item; none: the item is pending.
    pub invoice: Option<String>,
    pub deleted: bool,
}
