//! The classes of calls to Stripe, and the share of each.

/// What a call is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// A change that somebody waits for: a checkout, an upgrade, a preview, a command.
    Change,
    /// An event of Stripe.
    Webhook,
    /// Usage: meter events, summaries, late charges.
    Report,
    /// A periodic job that nobody waits for: comparisons, lists of missed events.
    Sweep,
    /// A `GET` of the public API. It changes nothing.
    View,
}

impl Class {
    pub const ALL: [Self; 5] = [Self::Change, Self::Webhook, Self::Report, Self::Sweep, Self::View];

    /// Calls in a round of twelve, while calls of all classes wait.
    pub fn weight(self) -> u32 {
        match self {
            Self::Change | Self::Webhook => 4,
            Self::Report => 2,
            Self::Sweep | Self::View => 1,
        }
    }

    /// In metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Change => "change",
            Self::Webhook => "webhook",
            Self::Report => "report",
            Self::Sweep => "sweep",
            Self::View => "view",
        }
    }

    /// Whether requests and events decide how many calls of one account wait. The jobs of the service bound their own
    /// concurrency.
    pub(super) fn is_from_outside(self) -> bool {
        match self {
            Self::Change | Self::Webhook | Self::View => true,
            Self::Report | Self::Sweep => false,
        }
    }
}
