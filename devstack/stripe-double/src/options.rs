//! The options of a double.

use std::time::Duration;

use crate::objects::usage::Lag;

/// By default the double is fast and correct. A test changes the options that it needs.
#[derive(Clone, Debug)]
pub struct StripeDoubleOptions {
    /// The port on 127.0.0.1; a free one by default.
    pub port: Option<u16>,
    /// `sk_test_…`; random by default.
    pub api_key: Option<String>,
    /// The signing secret, `whsec_…`, of the endpoints of `webhook_url` and [`crate::Control::add_webhook`]; random by default.
    pub webhook_secret: Option<String>,
    /// An endpoint that receives all events from the start.
    pub webhook_url: Option<String>,
    /// The start of the clock in Unix seconds; now by default.
    pub start_at: Option<i64>,
    /// Every API call takes this long, half of it before the call does its work. Calls do not wait for each other.
    pub latency: Duration,
    /// Maximum number of reads per second, and of writes per second, without meter events; further calls get 429.
    pub calls_per_second: Option<u32>,
    /// Maximum number of calls per second of one endpoint, such as `POST /v1/subscriptions`; further calls get 429. Stripe names 25 for
    /// most endpoints.
    pub endpoint_calls_per_second: Option<u32>,
    /// Strict mode: calls whose effect at Stripe is not certain are violations.
    pub is_strict: bool,
    /// How many requests are recorded; the oldest are dropped.
    pub requests_kept: usize,
    /// The seed for ids, faults and the order of webhooks.
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
            endpoint_calls_per_second: None,
            is_strict: false,
            requests_kept: 10_000,
            seed: rand::random(),
            billing: BillingSettings::default(),
            webhooks: WebhookBehavior::default(),
        }
    }
}

/// The billing settings of a Stripe account.
#[derive(Clone, Debug)]
pub struct BillingSettings {
    /// How long the invoice of a renewal is a draft. At Stripe it is one hour, and can be up to 72.
    pub draft_for_s: i64,
    /// How much later a meter event appears in the summaries.
    pub summary_lag_s: i64,
    /// How much later a meter event is counted at all: in the summaries, on upcoming invoices and on invoices that become final.
    pub metering_lag_s: i64,
    /// Days from each failed payment of a renewal to the next attempt.
    pub dunning_days: Vec<i64>,
    /// What happens to the subscription after the last attempt.
    pub after_dunning: AfterDunning,
    /// `invoice.upcoming` is sent this many days before a renewal.
    pub upcoming_days: i64,
    /// The card of a new customer, unless the call that creates it names one.
    pub new_customers_card: Option<Card>,
    /// The rate of automatic tax in hundredths of a percent, on top of prices. None: tax is not set up, and calls that ask for it fail.
    pub tax_basis_points: Option<i64>,
    /// How long a bank debit is processing before it succeeds or fails; 0: not at all.
    pub bank_debit_settles_after_s: i64,
    /// Whether the customer portal has a default configuration, which Stripe's dashboard makes. A new Stripe account has none.
    pub portal_is_configured: bool,
    /// How many cents too much a line of usage costs, if it costs something: a mistake in Stripe or in a price.
    pub usage_wrong_by_cents: i64,
}

impl Default for BillingSettings {
    fn default() -> Self {
        Self {
            draft_for_s: 3_600,
            summary_lag_s: 0,
            metering_lag_s: 0,
            dunning_days: vec![3, 5, 7],
            after_dunning: AfterDunning::Cancel,
            upcoming_days: 7,
            new_customers_card: None,
            tax_basis_points: None,
            bank_debit_settles_after_s: 4 * 86_400,
            portal_is_configured: false,
            usage_wrong_by_cents: 0,
        }
    }
}

impl BillingSettings {
    pub(crate) fn lag(&self) -> Lag {
        Lag {
            metering_s: self.metering_lag_s,
            summary_s: self.summary_lag_s,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterDunning {
    Cancel,
    Unpaid,
    PastDue,
}

/// A customer's test card or bank account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Card {
    Ok,
    Declines,
    /// Each payment needs 3-D Secure: the customer confirms it with [`crate::Control::confirm_payment`], or on the invoice's page.
    NeedsAction,
    /// A bank account that is debited: a payment is processing for [`BillingSettings::bank_debit_settles_after_s`]. Refused for
    /// pending updates.
    BankDebit,
    /// The same, and the bank returns every debit.
    BankDebitFails,
}

/// What happens when a card is charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Charge {
    Succeeds,
    Declined,
    NeedsAction,
    TakesDays,
}

impl Card {
    pub(crate) fn charge(self) -> Charge {
        match self {
            Self::Ok => Charge::Succeeds,
            Self::Declines => Charge::Declined,
            Self::NeedsAction => Charge::NeedsAction,
            Self::BankDebit | Self::BankDebitFails => Charge::TakesDays,
        }
    }

    /// The type of the payment method.
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Self::Ok | Self::Declines | Self::NeedsAction => "card",
            Self::BankDebit | Self::BankDebitFails => "us_bank_account",
        }
    }
}

/// How events are delivered to the endpoints.
#[derive(Clone, Debug)]
pub struct WebhookBehavior {
    /// Send nothing. A test reads `events()` and calls `deliver(event)` in its own order.
    pub hold: bool,
    /// Send each event this many times.
    pub copies: u32,
    /// Delay each event by a random time up to 100 ms, so that they arrive in another order.
    pub shuffle: bool,
    /// Real time from the event to its first attempt.
    pub delay: Duration,
    /// This many first attempts are lost and retried.
    pub drop_first: u32,
    /// Real time between attempts; the last value repeats. Stripe waits hours. After three days of the double's clock, or
    /// `attempts_max`, the double gives up.
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
