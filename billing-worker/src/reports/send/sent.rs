//! Outcomes of a page of reports.

/// Outcomes of reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    pub delivered: u64,
    /// Sent again later.
    pub postponed: u64,
    pub parked: u64,
    /// Their period takes no more reports: the units are carried.
    pub withdrawn: u64,
    /// Postponed reports for whose usage type Stripe has no meter.
    pub without_meter: u64,
}
