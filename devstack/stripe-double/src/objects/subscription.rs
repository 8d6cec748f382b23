//! A subscription and its status.

use serde_json::{Value, json};

use crate::objects::item::Item;
use crate::objects::metadata::Metadata;

#[derive(Clone, Debug)]
pub(crate) struct Subscription {
    pub id: String,
    pub customer: String,
    pub status: Status,
    pub items: Vec<Item>,
    /// Periods are counted from this time.
    pub anchor: i64,
    pub created: i64,
    pub currency: String,
    pub description: Option<String>,
    pub metadata: Metadata,
    pub cancel_at: Option<i64>,
    pub cancel_at_period_end: bool,
    pub canceled_at: Option<i64>,
    pub ended_at: Option<i64>,
    pub cancellation: Cancellation,
    pub trial_start: Option<i64>,
    pub trial_end: Option<i64>,
    pub without_card: WithoutCard,
    /// Ids of discounts.
    pub discounts: Vec<String>,
    pub automatic_tax: bool,
    pub latest_invoice: Option<String>,
    /// Lets a form save a card for the end of a trial.
    pub setup_intent: Option<SetupIntent>,
    pub schedule: Option<String>,
    pub pending_update: Option<PendingUpdate>,
    /// `None`: that of the customer.
    pub default_payment_method: Option<String>,
    pub pause_collection: Option<PauseCollection>,
    /// (since, reason)
    pub paused: Option<(i64, &'static str)>,
    /// When an `incomplete` one expires.
    pub expires_at: Option<i64>,
    /// `trial_will_end` was sent.
    pub trial_end_announced: bool,
    /// The period end for which `invoice.upcoming` was sent.
    pub renewal_announced: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Incomplete,
    IncompleteExpired,
    Trialing,
    Active,
    PastDue,
    Unpaid,
    Paused,
    Canceled,
}

/// What to do when a trial ends and there is no card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WithoutCard {
    CreateInvoice,
    Cancel,
    Pause,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Cancellation {
    pub reason: Option<&'static str>,
    pub comment: Option<String>,
    pub feedback: Option<String>,
}

#[derive(Clone, Debug)]
pub(crate) struct SetupIntent {
    pub id: String,
    pub client_secret: String,
}

/// A change that waits for its invoice to be paid.
#[derive(Clone, Debug)]
pub(crate) struct PendingUpdate {
    pub items: Vec<Item>,
    pub anchor: i64,
    pub trial_end: Option<i64>,
    pub invoice: String,
    pub expires_at: i64,
}

#[derive(Clone, Debug)]
pub(crate) struct PauseCollection {
    pub behavior: String,
    pub resumes_at: Option<i64>,
}

impl Status {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Incomplete => "incomplete",
            Self::IncompleteExpired => "incomplete_expired",
            Self::Trialing => "trialing",
            Self::Active => "active",
            Self::PastDue => "past_due",
            Self::Unpaid => "unpaid",
            Self::Paused => "paused",
            Self::Canceled => "canceled",
        }
    }

    pub(crate) fn has_ended(self) -> bool {
        matches!(self, Self::Canceled | Self::IncompleteExpired)
    }

    /// Whether it renews at the end of a period.
    pub(crate) fn renews(self) -> bool {
        matches!(self, Self::Trialing | Self::Active | Self::PastDue | Self::Unpaid)
    }
}

impl Subscription {
    /// The earliest end of an item's period; `None` without items.
    pub(crate) fn next_renewal(&self) -> Option<i64> {
        self.items.iter().map(|item| item.period_end).min()
    }

    /// The latest end of an item's period: a subscription that is canceled at the end of its period ends then.
    pub(crate) fn last_period_end(&self) -> Option<i64> {
        self.items.iter().map(|item| item.period_end).max()
    }

    pub(crate) fn period(&self) -> (i64, i64) {
        let start = self
            .items
            .iter()
            .map(|item| item.period_start)
            .min()
            .unwrap_or(self.created);
        (start, self.next_renewal().unwrap_or(self.created))
    }
}

impl SetupIntent {
    pub(crate) fn render(&self, customer: &str) -> Value {
        json!({ "id": self.id, "object": "setup_intent", "client_secret": self.client_secret, "customer": customer,
            "livemode": false, "status": "requires_payment_method", "usage": "off_session" })
    }
}

impl WithoutCard {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::CreateInvoice => "create_invoice",
            Self::Cancel => "cancel",
            Self::Pause => "pause",
        }
    }
}
