//! Injected faults: which calls fail, how, and whether before or after they do their work.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// A fault rule. Of the rules that match a call, the first that applies is used.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FaultRule {
    /// Calls whose path begins with this text; empty: all calls.
    #[serde(default)]
    pub path: String,
    /// `POST` and so on; none: all methods.
    #[serde(default)]
    pub method: Option<String>,
    pub kind: FaultKind,
    #[serde(default)]
    pub moment: Moment,
    /// The part of the matching calls that fail, from 0 to 1.
    #[serde(default = "always")]
    pub probability: f64,
    /// How many more matching calls pass before the first one fails.
    #[serde(default)]
    pub skip: u32,
    /// How many more calls fail; none: no limit.
    #[serde(default)]
    pub count: Option<u32>,
    /// The seed for `probability`.
    #[serde(default)]
    pub seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// 429, with or without `Retry-After` in seconds.
    TooManyRequests { retry_after_s: Option<u64> },
    /// 500, stored under the idempotency key, as at Stripe.
    ServerError,
    /// A 4xx in Stripe's own words, stored under the idempotency key as at Stripe.
    Refused(RefusalKind),
    /// Resets the connection without a response.
    Reset,
    /// Sends nothing for this much real time, then resets the connection.
    Hang { ms: u64 },
    /// The head and half of the body, then a reset.
    CutBody,
    /// 200 with a body that is not JSON.
    BrokenJson,
    /// 200 with JSON that is not Stripe's, as from a proxy that answers in its place.
    OtherJson,
}

/// Refusals of Stripe that no rule of the double makes at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalKind {
    AmountTooLarge,
    AmountTooSmall,
    CardDeclined,
    CurrencyMismatch,
    /// 401.
    InvalidKey,
    /// The object that the call names does not exist.
    Missing,
    NoPaymentMethod,
    PaymentMethodUnsupported,
    /// 403: the key lacks a permission.
    PermissionMissing,
    PortalNotConfigured,
    PriceInactive,
    /// A refusal with a code that is about none of the above.
    TooManySubscriptions,
}

/// Whether the call does its work before it fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Moment {
    #[default]
    Before,
    After,
}

impl FaultRule {
    /// Every call fails this way before it does its work.
    pub fn new(kind: FaultKind) -> Self {
        Self {
            path: String::new(),
            method: None,
            kind,
            moment: Moment::Before,
            probability: 1.0,
            skip: 0,
            count: None,
            seed: 0,
        }
    }

    pub fn path(mut self, path: &str) -> Self {
        self.path = path.to_owned();
        self
    }

    pub fn method(mut self, method: &str) -> Self {
        self.method = Some(method.to_owned());
        self
    }

    /// Fails after the work is done, which the caller cannot know.
    pub fn after(mut self) -> Self {
        self.moment = Moment::After;
        self
    }

    /// This many matching calls pass first.
    pub fn skip(mut self, skip: u32) -> Self {
        self.skip = skip;
        self
    }

    pub fn times(mut self, count: u32) -> Self {
        self.count = Some(count);
        self
    }

    pub fn probability(mut self, probability: f64, seed: u64) -> Self {
        (self.probability, self.seed) = (probability, seed);
        self
    }

    fn fits(&self, method: &str, path: &str) -> bool {
        self.count != Some(0)
            && path.starts_with(&self.path)
            && self
                .method
                .as_deref()
                .is_none_or(|wanted| wanted.eq_ignore_ascii_case(method))
    }
}

impl RefusalKind {
    fn failure(self) -> Failure {
        match self {
            Self::AmountTooLarge => Failure::amount_too_large(),
            Self::AmountTooSmall => Failure::amount_too_small(),
            Self::CardDeclined => Failure::declined(),
            Self::CurrencyMismatch => Failure::currency_mismatch("eur"),
            Self::InvalidKey => Failure::unauthorized("Invalid API Key provided: sk_test_****"),
            Self::Missing => Failure::no_such("customer", "cus_missing").param("customer"),
            Self::NoPaymentMethod => Failure::no_payment_method(),
            Self::PaymentMethodUnsupported => Failure::payment_method_unsupported("us_bank_account"),
            Self::PermissionMissing => Failure::forbidden(),
            Self::PortalNotConfigured => Failure::portal_not_configured(),
            Self::PriceInactive => Failure::price_inactive().param("items[0][price]"),
            Self::TooManySubscriptions => Failure::too_many_subscriptions(),
        }
    }
}

impl FaultKind {
    /// The failure of a call that began to run.
    pub(crate) fn failure(self) -> Option<Failure> {
        match self {
            Self::ServerError => Some(Failure::server_error()),
            Self::Refused(refusal) => Some(refusal.failure()),
            _ => None,
        }
    }

    pub(crate) fn hang(self) -> Option<Duration> {
        match self {
            Self::Hang { ms } => Some(Duration::from_millis(ms)),
            _ => None,
        }
    }
}

fn always() -> f64 {
    1.0
}

#[derive(Default)]
pub(crate) struct Faults {
    rules: Vec<(FaultRule, StdRng)>,
    struck: usize,
}

impl Faults {
    pub(crate) fn add(&mut self, rule: FaultRule) {
        let random = StdRng::seed_from_u64(rule.seed);
        self.rules.push((rule, random));
    }

    pub(crate) fn clear(&mut self) {
        self.rules.clear();
        self.struck = 0;
    }

    /// How many calls got a fault since the rules were last cleared.
    pub(crate) fn struck(&self) -> usize {
        self.struck
    }

    /// The fault that this call gets, if any.
    pub(crate) fn strike(&mut self, method: &str, path: &str) -> Option<(FaultKind, Moment)> {
        let fitting = self.rules.iter_mut().filter(|(rule, _)| rule.fits(method, path));
        for (rule, random) in fitting {
            if rule.skip > 0 {
                rule.skip -= 1;
                continue;
            }
            if random.random::<f64>() >= rule.probability {
                continue;
            }
            rule.count = rule.count.map(|count| count - 1);
            self.struck += 1;
            return Some((rule.kind, rule.moment));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_applies_to_the_calls_that_it_names_and_as_often_as_it_says() {
        let mut faults = Faults::default();
        faults.add(
            FaultRule::new(FaultKind::ServerError)
                .path("/v1/customers")
                .method("POST")
                .times(2)
                .after(),
        );
        assert_eq!(faults.strike("GET", "/v1/customers/cus_1"), None);
        assert_eq!(faults.strike("POST", "/v1/prices"), None);
        for _ in 0..2 {
            assert_eq!(
                faults.strike("POST", "/v1/customers"),
                Some((FaultKind::ServerError, Moment::After))
            );
        }
        assert_eq!(faults.strike("POST", "/v1/customers"), None);
    }

    #[test]
    fn rule_lets_the_first_calls_pass() {
        let mut faults = Faults::default();
        faults.add(FaultRule::new(FaultKind::Reset).path("/v1/prices").skip(2).times(1));
        let mut struck = |path| faults.strike("GET", path).is_some();
        let calls = ["/v1/prices", "/v1/meters", "/v1/prices", "/v1/prices", "/v1/prices"];
        assert_eq!(calls.map(&mut struck), [false, false, false, true, false]);
    }

    #[test]
    fn chance_is_the_same_with_the_same_seed() {
        let strikes = |seed| {
            let mut faults = Faults::default();
            faults.add(FaultRule::new(FaultKind::Reset).probability(0.3, seed));
            (0..1_000)
                .map(|_| faults.strike("GET", "/").is_some())
                .collect::<Vec<_>>()
        };
        assert_eq!(strikes(7), strikes(7));
        let struck = strikes(7).iter().filter(|struck| **struck).count();
        assert!((200..400).contains(&struck), "{struck}");
    }
}
