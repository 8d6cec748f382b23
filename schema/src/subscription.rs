//! An account's subscription, and the plan that it gives at one moment. Pure and shared, so that the gateway and the billing
//! worker come to the same result.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Catalogue, Currency, Period, PlanVersion, SubscriptionId};

/// Status of a subscription, in Stripe's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SubscriptionStatus {
    Active,
    Trialing,
    /// A payment failed. The subscription keeps working while nothing is owed, or until the grace period ends.
    PastDue,
    /// The same, and Stripe no longer tries to collect.
    Unpaid,
    Paused,
    Canceled,
    /// The first payment has not succeeded.
    Incomplete,
    IncompleteExpired,
}

/// A subscription as stored in PostgreSQL. Times are in seconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    pub id: SubscriptionId,
    pub plan: String,
    /// The version of the plan. `None`: it follows the catalogue, because an operator assigned the plan, or because the price in
    /// Stripe was not made by this service.
    pub version: Option<Arc<PlanVersion>>,
    pub status: SubscriptionStatus,
    pub period: Period,
    /// When the usage prices changed within the period: usage that is admitted from then on has the new ones. `None`: they did not.
    pub segment_start: Option<i64>,
    /// The anchor of the monthly periods.
    pub anchor: i64,
    /// When the subscription will end. From then on the account has `then_plan`.
    pub ends_at: Option<i64>,
    /// The plan after `ends_at`. `None`: Free.
    pub then_plan: Option<String>,
    /// The version of `then_plan`.
    pub then_version: Option<Arc<PlanVersion>>,
    /// When the grace period ends of a subscription with an invoice that is owed. `None`: nothing is owed.
    pub grace_until: Option<i64>,
    /// When the time ends that was paid, if Stripe does not collect the invoices. `None`: it collects them.
    pub paid_until: Option<i64>,
    /// Whether it is one in Stripe. Otherwise an operator assigned the plan, and nobody pays for it.
    pub in_stripe: bool,
    /// What it is paid in. `None`: in a currency that no plan can have, because a person made its price in Stripe.
    pub currency: Option<Currency>,
}

/// What an account may do at one moment: its plan, its period, and whether it must pay first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CurrentPlan {
    pub name: String,
    /// `None`: what the catalogue says now.
    pub version: Option<Arc<PlanVersion>>,
    /// The time that a limit is for.
    pub period: Period,
    /// The start of the running segment, with which usage is stamped. A segment is a part of a period with one set of usage
    /// prices: the whole period, unless the prices changed within it.
    pub segment: i64,
    pub subscription: SubscriptionId,
    /// Of the prices of units. `None`: they are not known in the currency of the subscription.
    pub currency: Option<Currency>,
    pub entitlement: Entitlement,
    /// Why usage that the plan bills has no payer. `None`: it is on the invoices of the subscription.
    pub unbilled: Option<Unbilled>,
    /// Valid until then (exclusive), unless a change is announced: the end of the period, of the subscription, of the grace period
    /// or of the paid time, whichever comes first.
    pub valid_until: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entitlement {
    Granted,
    /// `402`: a payment is needed first.
    PaymentRequired,
}

/// Why nobody pays for usage that a plan bills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unbilled {
    /// The subscription's trial has not ended. It ends when Stripe says so, not when its time is over: without a card, no paid
    /// period follows.
    Trial,
    /// An operator assigned the plan, or it is Free.
    NoSubscription,
}

impl Unbilled {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trial => "trial",
            Self::NoSubscription => "no_subscription",
        }
    }
}

impl SubscriptionStatus {
    pub const ALL: [Self; 8] = [
        Self::Active,
        Self::Trialing,
        Self::PastDue,
        Self::Unpaid,
        Self::Paused,
        Self::Canceled,
        Self::Incomplete,
        Self::IncompleteExpired,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Trialing => "trialing",
            Self::PastDue => "past_due",
            Self::Unpaid => "unpaid",
            Self::Paused => "paused",
            Self::Canceled => "canceled",
            Self::Incomplete => "incomplete",
            Self::IncompleteExpired => "incomplete_expired",
        }
    }

    /// The subscription decides what its account may do. Otherwise the account is on Free.
    pub fn is_live(self) -> bool {
        match self {
            Self::Active | Self::Trialing | Self::PastDue | Self::Unpaid | Self::Paused => true,
            Self::Canceled | Self::Incomplete | Self::IncompleteExpired => false,
        }
    }

    pub fn from_stored(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }
}

impl CurrentPlan {
    /// The plan at `now` (seconds since the Unix epoch) of an account with or without a subscription.
    pub fn at(subscription: Option<&Subscription>, now: i64) -> Self {
        let Some(subscription) = subscription.filter(|subscription| subscription.status.is_live()) else {
            return Self::free(now);
        };
        if let Some(ends_at) = subscription.ends_at.filter(|ends_at| *ends_at <= now) {
            return match &subscription.then_plan {
                None => Self::free(now),
                Some(plan) => {
                    let (version, period) = (subscription.then_version.clone(), Period::anchored_month(ends_at, now));
                    Self::paid(subscription, plan, version, period, period.start, now)
                }
            };
        }
        // Until Stripe reports the next period, roll the known one forward.
        let period = if subscription.period.contains(now) {
            subscription.period
        } else {
            Period::anchored_month(subscription.anchor, now)
        };
        let version = subscription.version.clone();
        let segment = subscription.segment_start.filter(|start| period.contains(*start));
        let segment = segment.unwrap_or(period.start);
        Self::paid(subscription, &subscription.plan, version, period, segment, now)
    }

    /// The plan that the account has in `period`. `None`: it has no period that begins then, for example because the period is of
    /// an earlier plan. If the subscription ends within the period, `now` says which of the two plans; otherwise `now` changes
    /// nothing.
    pub fn in_period(subscription: Option<&Subscription>, period: Period, now: i64) -> Option<Self> {
        let running = now.min(period.end - 1).max(period.start);
        let ends_at = subscription.and_then(|subscription| subscription.ends_at);
        let ends_at = ends_at.filter(|at| period.contains(*at));
        [Some(running), Some(period.start), ends_at]
            .into_iter()
            .flatten()
            .map(|at| Self::at(subscription, at))
            .find(|plan| plan.period.start == period.start)
    }

    fn paid(
        subscription: &Subscription,
        plan: &str,
        version: Option<Arc<PlanVersion>>,
        period: Period,
        segment: i64,
        now: i64,
    ) -> Self {
        // Also of an active one: the invoices for the units of a yearly plan do not change the status in Stripe.
        let grace = subscription.grace_until;
        let entitlement = match (subscription.status, grace) {
            (SubscriptionStatus::Paused, _) => Entitlement::PaymentRequired,
            (_, Some(until)) if until <= now => Entitlement::PaymentRequired,
            _ if subscription.paid_until.is_some_and(|until| until <= now) => Entitlement::PaymentRequired,
            _ => Entitlement::Granted,
        };
        let valid_until = [Some(period.end), subscription.ends_at, grace, subscription.paid_until]
            .into_iter()
            .flatten()
            .filter(|at| *at > now)
            .min()
            .unwrap_or(period.end);
        let unbilled = match (subscription.in_stripe, subscription.status) {
            (false, _) => Some(Unbilled::NoSubscription),
            (true, SubscriptionStatus::Trialing) => Some(Unbilled::Trial),
            (true, _) => None,
        };
        Self {
            name: plan.to_owned(),
            version,
            period,
            segment,
            subscription: subscription.id,
            currency: subscription.currency,
            entitlement,
            unbilled,
            valid_until,
        }
    }

    fn free(now: i64) -> Self {
        let period = Period::calendar_month(now);
        Self {
            name: Catalogue::FREE.to_owned(),
            version: None,
            period,
            segment: period.start,
            subscription: SubscriptionId::NIL,
            currency: Some(Currency::USD),
            entitlement: Entitlement::Granted,
            unbilled: Some(Unbilled::NoSubscription),
            valid_until: period.end,
        }
    }
}

#[cfg(test)]
mod tests;
