//! Which periods to compare.

use schema::AccountId;
use time::Date;

/// Which periods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The running period.
    Current,
    /// The last period that is over.
    Previous,
    /// Periods that contain a part of this day.
    Day(Date),
    All,
}

#[derive(Clone, Debug)]
pub struct Question {
    pub which: Which,
    pub account: Option<AccountId>,
    /// Sums frozen periods again instead of using the stored totals.
    pub recount: bool,
}
