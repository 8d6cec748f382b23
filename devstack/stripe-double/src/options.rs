//! How a double is set up.

use std::time::Duration;

/// Everything has a default that is quick and well-behaved; a test turns what it is about.
#[derive(Clone, Debug)]
pub struct StripeDoubleOptions {
    /// On 127.0.0.1; a free one by default.
    pub port: Option<u16>,
    /// `sk_test_…`; made up by default.
    pub api_key: Option<String>,
    /// The signing secret of the endpoints that the options and [`crate::Control::add_webhook`] make, `whsec_…`; made up by default.
    pub webhook_secret: Option<String>,
    /// An endpoint for all events, from the start.
    pub webhook_url: Option<String>,
    /// Where the clock starts, Unix seconds; now by default.
    pub start_at: Option<i64>,
    /// Every API call takes this long, half of it before it does anything. Calls do not wait for each other.
    pub latency: Duration,
    /// More API calls in one second are answered 429.
    pub calls_per_second: Option<u32>,
    /// Of the record of requests; the oldest are dropped.
    pub requests_kept: usize,
    /// Of ids, faults and the order of webhooks.
    pub seed: u64,
    pub billing: BillingSettings,
    pub webhooks: WebhookBehavior,
}

impl Default for StripeDoubleOptions {
    fn default() -> Self {
        Self {
            port: None,
            api_key: None,
            webhook_secret: None,
            webhook_url: None,
            start_at: None,
            latency: Duration::ZERO,
            calls_per_second: None,
            requests_kept: 10_000,
            seed: rand::random(),
            billing: BillingSettings::default(),
            webhooks: WebhookBehavior::default(),
        }
    }
}

/// What an account's billing settings say at Stripe.
#[derive(Clone, Debug)]
pub struct BillingSettings {
    /// A renewal's invoice is a draft for this long. Stripe: one hour, up to 72.
    pub draft_for_s: i64,
    /// A meter event shows in the summaries this much later.
    pub summary_lag_s: i64,
    /// Days from each failed payment of a renewal to the next try.
    pub dunning_days: Vec<i64>,
    /// What becomes of the subscription after the last try.
    pub after_dunning: AfterDunning,
    /// `invoice.upcoming` comes this many days before a renewal.
    pub upcoming_days: i64,
    /// The card that a new customer has, unless the call that makes it says otherwise.
    pub new_customers_card: Option<Card>,
}

impl Default for BillingSettings {
    fn default() -> Self {
        Self {
            draft_for_s: 3_600,
            summary_lag_s: 0,
            dunning_days: vec![3, 5, 7],
            after_dunning: AfterDunning::Cancel,
            upcoming_days: 7,
            new_customers_card: None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterDunning {
    Cancel,
    Unpaid,
    PastDue,
}

/// A customer's test card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Card {
    Ok,
    Declines,
}

/// How events reach the endpoints.
#[derive(Clone, Debug)]
pub struct WebhookBehavior {
    /// Send nothing; a test takes `events()` and calls `deliver(event)` in its own order.
    pub hold: bool,
    /// Send each of them this many times.
    pub copies: u32,
    /// Send each a random part of 100 ms later, so that they overtake each other.
    pub shuffle: bool,
    /// Real time from the event to its first attempt.
    pub delay: Duration,
    /// This many first attempts are lost on the way; they are tried again.
    pub drop_first: u32,
    /// Real time between attempts, the last value repeated. Stripe takes hours; after three days of the double's clock, or
    /// `attempts_max`, it gives up.
    pub retry_after: Vec<Duration>,
    pub attempts_max: u32,
}

impl Default for WebhookBehavior {
    fn default() -> Self {
        Self {
            hold: false,
            copies: 1,
            shuffle: false,
            delay: Duration::ZERO,
            drop_first: 0,
            retry_after: [50, 100, 200, 400, 800, 1_600].map(Duration::from_millis).to_vec(),
            attempts_max: 30,
        }
    }
}
