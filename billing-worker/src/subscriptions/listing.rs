//! A customer's subscriptions in Stripe, and the rule which of them is current.

use schema::standing::SubscriptionStatus;
use stripe_billing::subscription::{ListSubscription, ListSubscriptionStatus};

use crate::stripe::{
    Stripe, StripeError,
    object::{List, Subscription},
};

/// Of a customer with more subscriptions than ten pages of a hundred, ended ones included, the latest thousand are read.
const PAGES_MAX: usize = 10;

/// The latest first, ended ones too.
pub async fn all(stripe: &Stripe, customer: &str) -> Result<Vec<Subscription>, StripeError> {
    let (mut all, mut after) = (Vec::new(), None::<String>);
    for _ in 0..PAGES_MAX {
        let mut list = ListSubscription::new()
            .customer(customer)
            .status(ListSubscriptionStatus::All)
            .limit(100);
        if let Some(after) = &after {
            list = list.starting_after(after);
        }
        let page: List<Subscription> = stripe.read(&list).await?;
        after = page.data.last().map(|subscription| subscription.id.clone());
        all.extend(page.data);
        if !page.has_more {
            break;
        }
    }
    Ok(all)
}

/// The subscription that says what its account may do: of those that run, to a plan of ours, the newest. A customer who subscribed
/// twice meant the later one. Ids break a tie, so that every reader picks the same.
pub fn current<'a>(subscriptions: impl IntoIterator<Item = &'a Subscription>) -> Option<&'a Subscription> {
    let running = subscriptions
        .into_iter()
        .filter(|one| is_live(one) && one.plan_item().is_some());
    running.max_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)))
}

fn is_live(subscription: &Subscription) -> bool {
    SubscriptionStatus::from_stored(&subscription.status).is_some_and(SubscriptionStatus::is_live)
}
