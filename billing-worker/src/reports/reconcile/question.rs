//! Which periods to compare.

use schema::AccountId;
use time::Date;

use crate::reports::money::Source;

/// Which periods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The running period.
    Current,
    /// The last period that is over.
    Previous,
    /// Periods that contain a part of this day.
    Day(Date),
    /// Periods that end after this second.
    Since(i64),
    All,
}

#[derive(Clone, Debug)]
pub struct Question {
    pub which: Which,
    pub account: Option<AccountId>,
    /// Sums frozen periods again instead of using the stored totals.
    pub recount: bool,
    /// Where invoices and credit notes are read.
    pub source: Source,
    /// Whether Stripe is asked for its units. If not, they count as the reported ones.
    pub summaries: bool,
}
