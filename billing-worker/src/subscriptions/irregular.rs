//! What an operator must solve about a customer's subscriptions. Pure.

use protocol::reports::period::BilledBy;
use schema::{Catalogue, Interval, UsageType};

use super::{
    mirrored::Mirrored,
    segment::{self, Segment},
};
use crate::{
    findings::finding::{Finding, FindingKind},
    stripe::object::Subscription,
};

/// A live subscription to one of our plans.
pub(super) fn of_live(of: &Subscription, mirrored: &Mirrored) -> Vec<Finding> {
    let found = |kind: FindingKind, text: String| Finding {
        kind,
        subject: of.id.clone(),
        text,
    };
    let (id, plan) = (&of.id, &mirrored.plan);
    let item = of.plan_item();
    let foreign = item.filter(|item| !item.price.is_ours()).map(|item| {
        format!(
            "{id} pays the price {}, which this service did not make, for the plan `{plan}`",
            item.price.id
        )
    });
    let quantity = item
        .and_then(|item| item.quantity)
        .filter(|quantity| *quantity != 1)
        .map(|quantity| format!("{id} pays {quantity} times for the plan `{plan}`, and has its limits once"));
    let others = of.plan_items().skip(1).map(|item| item.price.id.as_str());
    let others: Vec<_> = others.collect();
    let two_plans = (!others.is_empty()).then(|| {
        let others = others.join(", ");
        format!("{id} pays for more than one plan, and has only `{plan}` (the others: {others})")
    });
    let months = mirrored.interval_months;
    let interval = Interval::from_months(months).is_none().then(|| {
        let every = match months {
            0 => "an interval that is no number of months".to_owned(),
            months => format!("{months} months"),
        };
        format!(
            "{id} pays for {every} of the plan `{plan}`, which is sold by the month and by the year only; its limits are monthly, and \
             its units are not charged"
        )
    });
    let paused = of.pause_collection.as_ref().map(|pause| {
        let behavior = pause["behavior"].as_str().unwrap_or("unknown");
        format!("the invoices of {id} are not collected (pause_collection: {behavior})")
    });
    [
        (FindingKind::ForeignPrice, foreign),
        (FindingKind::Interval, interval),
        (FindingKind::PausedCollection, paused),
        (FindingKind::Quantity, quantity),
        (FindingKind::TwoPlans, two_plans),
    ]
    .into_iter()
    .filter_map(|(kind, text)| Some(found(kind, text?)))
    .collect()
}

/// Names usage types that its version of the plan bills and the subscription does not, for the meters of the running segment: somebody
/// changed the prices in Stripe, or the catalogue began to bill them when there were no versions.
pub(super) fn unbilled(catalogue: &Catalogue, of: &Mirrored, running: Segment) -> Option<Finding> {
    // Its units are charged, or the interval is a finding.
    if of.billed_by() == BilledBy::Charge {
        return None;
    }
    let is_billed = |usage_type: &str| {
        segment::items(of).any(|item| item.usage_type.as_deref() == Some(usage_type) && item.meter_slot == running.slot)
    };
    let billed: Vec<&str> = match &of.version {
        Some(version) => version.terms.billed().collect(),
        None => catalogue
            .billed(catalogue.plan(&of.plan)?)
            .map(UsageType::name)
            .collect(),
    };
    let missing: Vec<_> = billed.into_iter().filter(|usage_type| !is_billed(usage_type)).collect();
    (!missing.is_empty()).then(|| {
        let (id, plan, missing) = (&of.stripe_id, &of.plan, missing.join(", "));
        Finding {
            kind: FindingKind::UnbilledUsage,
            subject: id.clone(),
            text: format!("{id} has no price for usage that its plan `{plan}` bills ({missing})"),
        }
    })
}

/// A live subscription to none of our plans, which the customer may take for one of them.
pub(super) fn unknown(of: &Subscription) -> Finding {
    let prices: Vec<&str> = of.items.data.iter().map(|item| item.price.id.as_str()).collect();
    Finding {
        kind: FindingKind::UnknownSubscription,
        subject: of.id.clone(),
        text: format!(
            "the customer pays for {}, which is for no plan here (prices: {}); no other subscription can be started",
            of.id,
            prices.join(", ")
        ),
    }
}

pub(super) fn unreadable(of: &Subscription, why: &str) -> Finding {
    Finding {
        kind: FindingKind::UnreadableSubscription,
        subject: of.id.clone(),
        text: format!("{}: {why}", of.id),
    }
}

/// More than one live subscription to our plans.
pub(super) fn several(live: &[&Subscription]) -> Option<Finding> {
    let (first, ids) = (live.first()?, live.iter().map(|one| one.id.as_str()));
    (live.len() > 1).then(|| Finding {
        kind: FindingKind::TwoSubscriptions,
        subject: first.customer.id().to_owned(),
        text: format!(
            "the customer pays for {} subscriptions: {}",
            live.len(),
            ids.collect::<Vec<_>>().join(", ")
        ),
    })
}
