//! A customer's subscriptions in Stripe, and the rule that decides which one is current.

use schema::subscription::SubscriptionStatus;
use stripe_billing::subscription::{ListSubscription, ListSubscriptionStatus};

use crate::stripe::{Stripe, StripeError, object::Subscription};

/// Pages of a hundred subscriptions. If a customer has more, including ended ones, only the latest thousand are read.
const PAGES_MAX: usize = 10;

/// The latest first, ended ones too.
pub async fn all(stripe: &Stripe, customer: &str) -> Result<Vec<Subscription>, StripeError> {
    let page = |after: Option<String>| {
        let list = ListSubscription::new()
            .customer(customer)
            .status(ListSubscriptionStatus::All)
            .limit(100);
        match after {
            Some(after) => list.starting_after(after),
            None => list,
        }
    };
    stripe
        .pages(PAGES_MAX, page, |subscription: &Subscription| &subscription.id)
        .await
}

/// The subscription that decides what its account may do: the newest running one to a plan of ours. If a customer subscribed
/// twice, the later one counts. Ids break a tie, so that every reader picks the same one.
pub fn current<'a>(subscriptions: impl IntoIterator<Item = &'a Subscription>) -> Option<&'a Subscription> {
    let running = subscriptions
        .into_iter()
        .filter(|one| is_live(one) && one.plan_item().is_some());
    running.max_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)))
}

/// A running subscription to none of our plans, unless an operator says that it is for another product.
pub fn unknown(subscriptions: &[Subscription]) -> Option<&Subscription> {
    subscriptions.iter().find(|one| is_unknown(one))
}

pub(super) fn is_unknown(one: &Subscription) -> bool {
    is_live(one) && one.plan_item().is_none() && !one.is_ignored()
}

pub(super) fn is_live(subscription: &Subscription) -> bool {
    SubscriptionStatus::from_stored(&subscription.status).is_some_and(SubscriptionStatus::is_live)
}
