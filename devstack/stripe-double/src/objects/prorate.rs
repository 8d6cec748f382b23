//! `proration_behavior`: whether and when a change in the middle of a period is charged.

/// `proration_behavior`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Prorate {
    AlwaysInvoice,
    /// On the next invoice.
    Create,
    None,
}

impl Prorate {
    pub(crate) fn of(text: Option<&str>) -> Self {
        match text {
            Some("always_invoice") => Self::AlwaysInvoice,
            Some("none") => Self::None,
            _ => Self::Create,
        }
    }
}
