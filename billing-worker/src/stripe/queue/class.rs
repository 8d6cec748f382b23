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
}

impl Class {
    pub const ALL: [Self; 4] = [Self::Change, Self::Webhook, Self::Report, Self::Sweep];

    /// Calls in a round of eleven, while calls of all classes wait.
    pub fn weight(self) -> u32 {
        match self {
            Self::Change | Self::Webhook => 4,
            Self::Report => 2,
            Self::Sweep => 1,
        }
    }

    /// In metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Change => "change",
            Self::Webhook => "webhook",
            Self::Report => "report",
            Self::Sweep => "sweep",
        }
    }

    /// Whether requests and events decide how many calls of one account wait. The jobs of the service bound their own
    /// concurrency.
    pub(super) fn is_from_outside(self) -> bool {
        match self {
            Self::Change | Self::Webhook => true,
            Self::Report | Self::Sweep => false,
        }
    }
}
