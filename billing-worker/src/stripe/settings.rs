//! Settings of the Stripe client.

use std::time::Duration;

use clap::{ArgAction, Args};
use service::{
    boot::Mistakes,
    settings::{http_url, seconds},
};

#[derive(Args, Clone, Debug)]
pub struct StripeSettings {
    /// Secret key of the Stripe account (sk_live_…, rk_live_… or their test forms); without it nothing is billed
    #[arg(long, env = "STRIPE_SECRET_KEY", hide_env_values = true)]
    pub stripe_secret_key: Option<String>,

    /// URL of Stripe's API; change it only for tests
    #[arg(long, env = "STRIPE_API_BASE", default_value = "https://api.stripe.com", value_parser = http_url)]
    pub stripe_api_base: String,

    /// Time-out of one attempt of a call (seconds)
    #[arg(long, env = "STRIPE_TIMEOUT", default_value = "20", value_parser = seconds)]
    pub stripe_timeout: Duration,

    /// Maximum number of reads per second, and of writes per second, without meter events (Stripe allows 100 in live mode, 25 in
    /// a sandbox)
    #[arg(long, env = "STRIPE_CALLS_PER_SECOND", default_value = "25", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub stripe_calls_per_second: u32,

    /// Maximum number of reads per second, if it differs from STRIPE_CALLS_PER_SECOND
    #[arg(long, env = "STRIPE_READS_PER_SECOND", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub stripe_reads_per_second: Option<u32>,

    /// Maximum number of writes per second, if it differs from STRIPE_CALLS_PER_SECOND
    #[arg(long, env = "STRIPE_WRITES_PER_SECOND", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub stripe_writes_per_second: Option<u32>,

    /// Maximum number of meter events per second (Stripe allows 1,000)
    #[arg(long, env = "STRIPE_METER_EVENTS_PER_SECOND", default_value = "500", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub stripe_meter_events_per_second: u32,

    /// Let Stripe calculate tax for new subscriptions and for invoices of late usage (Stripe Tax must be set up)
    #[arg(long, env = "AUTOMATIC_TAX", action = ArgAction::Set, default_value = "false", num_args = 0..=1,
          require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub automatic_tax: bool,
}

impl StripeSettings {
    /// Names every mistake in them, without the key.
    pub fn check(&self, mistakes: &mut Mistakes) {
        mistakes.ensure(
            self.stripe_secret_key.as_deref().is_none_or(is_secret_key),
            "stripe_secret_key",
            "must be a secret key, which begins with sk_live_, sk_test_, rk_live_ or rk_test_",
        );
        mistakes.ensure(
            !self.stripe_api_base.contains('?'),
            "stripe_api_base",
            "must be a URL without a query, such as https://api.stripe.com",
        );
    }

    pub fn reads_per_second(&self) -> u32 {
        self.stripe_reads_per_second.unwrap_or(self.stripe_calls_per_second)
    }

    pub fn writes_per_second(&self) -> u32 {
        self.stripe_writes_per_second.unwrap_or(self.stripe_calls_per_second)
    }

    /// Live mode: real money moves. Objects of the other mode are ignored.
    pub fn is_live(&self) -> bool {
        self.stripe_secret_key
            .as_deref()
            .and_then(|key| key.get(3..))
            .is_some_and(|rest| rest.starts_with("live_"))
    }

    /// A key of a sandbox: no money moves.
    pub fn is_sandbox(&self) -> bool {
        self.stripe_secret_key.is_some() && !self.is_live()
    }
}

fn is_secret_key(key: &str) -> bool {
    let is_kind = ["sk_live_", "sk_test_", "rk_live_", "rk_test_"]
        .iter()
        .any(|prefix| key.len() > prefix.len() && key.starts_with(prefix));
    is_kind && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_secret_keys_are_accepted() {
        for (key, expected) in [
            ("sk_test_51abc", true),
            ("rk_live_51abc", true),
            ("pk_live_51abc", false),
            ("sk_test_", false),
            ("sk_test_a b", false),
            ("", false),
        ] {
            assert_eq!(is_secret_key(key), expected, "{key}");
        }
    }
}
