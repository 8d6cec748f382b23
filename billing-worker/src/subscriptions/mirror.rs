//! A customer's subscriptions in Stripe as they are stored here. Pure, and a function of all that Stripe says now: the same state
//! results from any events in any order.

use schema::{Catalogue, Period, SubscriptionId, UsageType, standing::SubscriptionStatus};
use uuid::Uuid;

use super::listing;
use crate::stripe::{
    names,
    object::{Invoice, Item, Schedule, Subscription, subscription::Price},
};

/// A subscription with what belongs to it in Stripe.
#[derive(Clone, Debug)]
pub struct Fetched {
    pub subscription: Subscription,
    /// Its schedule, where it has one.
    pub schedule: Option<Schedule>,
    /// The unpaid invoice that is due for longest, if a payment failed.
    pub owed: Option<Invoice>,
}

/// A subscription as a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirrored {
    pub id: SubscriptionId,
    pub stripe_id: String,
    pub plan: String,
    pub status: SubscriptionStatus,
    pub period: Period,
    pub anchor: i64,
    pub ends_at: Option<i64>,
    pub then_plan: Option<String>,
    pub grace_until: Option<i64>,
    pub cancel_at_period_end: bool,
    pub trial_ends_at: Option<i64>,
    pub schedule_id: Option<String>,
    pub ended_at: Option<i64>,
    pub items: Vec<MirroredItem>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirroredItem {
    pub id: String,
    pub price_id: String,
    /// `None`: the plan's own price.
    pub usage_type: Option<String>,
    pub period: Period,
}

/// All of a customer's subscriptions to plans of ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mirror {
    pub subscriptions: Vec<Mirrored>,
    /// The one that decides what the account may do.
    pub current: Option<SubscriptionId>,
    /// For an operator to look at.
    pub alarms: Vec<String>,
}

/// `grace_s`: how long a subscription keeps working after a failed payment.
pub fn mirror(catalogue: &Catalogue, fetched: &[Fetched], grace_s: i64, now: i64) -> Mirror {
    let mut mirror = Mirror::default();
    let mut live: Vec<&Subscription> = Vec::new();
    for one in fetched {
        match subscription(catalogue, one, grace_s, now) {
            Ok(mirrored) => {
                if mirrored.is_live() {
                    mirror.alarms.extend(unbilled(catalogue, &mirrored));
                    live.push(&one.subscription);
                }
                mirror.subscriptions.push(mirrored);
            }
            // Somebody else's product in the same Stripe account.
            Err(Unmirrored::NotOurs) => {}
            Err(Unmirrored::Unreadable(why)) => mirror.alarms.push(format!("{}: {why}", one.subscription.id)),
        }
    }
    live.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
    if live.len() > 1 {
        let ids: Vec<&str> = live.iter().map(|one| one.id.as_str()).collect();
        mirror.alarms.push(format!(
            "the customer pays for {} subscriptions ({}): cancel all but one in Stripe",
            ids.len(),
            ids.join(", ")
        ));
    }
    mirror.current = listing::current(live).map(|one| subscription_id(&one.id));
    mirror.subscriptions.sort_by(|a, b| a.stripe_id.cmp(&b.stripe_id));
    mirror
}

/// Our id of a subscription in Stripe. Usage events are stamped with it, so every reader derives the same one.
pub fn subscription_id(stripe_id: &str) -> SubscriptionId {
    SubscriptionId(Uuid::new_v5(
        &Uuid::NAMESPACE_URL,
        format!("stripe:{stripe_id}").as_bytes(),
    ))
}

impl Mirrored {
    /// It decides what its account may do.
    pub fn is_live(&self) -> bool {
        self.status.is_live()
    }
}

enum Unmirrored {
    NotOurs,
    Unreadable(String),
}

fn subscription(catalogue: &Catalogue, fetched: &Fetched, grace_s: i64, now: i64) -> Result<Mirrored, Unmirrored> {
    let of = &fetched.subscription;
    let unreadable = |why: String| Unmirrored::Unreadable(why);
    let plan_item = of.plan_item().ok_or(Unmirrored::NotOurs)?;
    let plan = plan_item.price.plan().ok_or(Unmirrored::NotOurs)?;
    if catalogue.plan(plan).is_none() {
        return Err(unreadable(format!("its plan `{plan}` is not in the catalogue")));
    }
    let status = SubscriptionStatus::from_stored(&of.status)
        .ok_or_else(|| unreadable(format!("its status `{}` is unknown", of.status)))?;
    let period = |start: i64, end: i64| match start < end {
        true => Ok(Period { start, end }),
        false => Err(unreadable(format!("a period from {start} to {end}"))),
    };
    let items = of.items.data.iter().map(|item| {
        Ok(MirroredItem {
            id: item.id.clone(),
            price_id: item.price.id.clone(),
            usage_type: item.price.metadata.get(names::META_USAGE_TYPE).cloned(),
            period: period(item.current_period_start, item.current_period_end)?,
        })
    });
    let items = items.collect::<Result<Vec<_>, Unmirrored>>()?;
    let (ends_at, then_plan) = end(of, fetched.schedule.as_ref(), plan_item, now);
    // Stripe first tries to collect an invoice when it finalizes it: that is when the payment failed.
    let failed_at = fetched
        .owed
        .as_ref()
        .map(|invoice| invoice.status_transitions.finalized_at.unwrap_or(invoice.created));
    Ok(Mirrored {
        id: subscription_id(&of.id),
        stripe_id: of.id.clone(),
        plan: plan.to_owned(),
        status,
        period: period(plan_item.current_period_start, plan_item.current_period_end)?,
        anchor: of.billing_cycle_anchor,
        ends_at,
        then_plan,
        grace_until: (status == SubscriptionStatus::PastDue)
            .then(|| failed_at.unwrap_or(plan_item.current_period_start) + grace_s),
        cancel_at_period_end: of.cancel_at_period_end,
        trial_ends_at: of.trial_end,
        schedule_id: fetched
            .schedule
            .as_ref()
            .filter(|schedule| schedule.is_active())
            .map(|schedule| schedule.id.clone()),
        ended_at: of.ended_at,
        items,
    })
}

/// Names what a subscription's plan bills and the subscription does not: it began before the catalogue billed that.
fn unbilled(catalogue: &Catalogue, of: &Mirrored) -> Option<String> {
    let is_billed = |usage_type: &UsageType| {
        of.items
            .iter()
            .any(|item| item.usage_type.as_deref() == Some(usage_type.name()))
    };
    let billed = catalogue.billed(catalogue.plan(&of.plan)?);
    let missing: Vec<_> = billed
        .filter(|usage_type| !is_billed(usage_type))
        .map(UsageType::name)
        .collect();
    (!missing.is_empty()).then(|| {
        let (id, plan, missing) = (&of.stripe_id, &of.plan, missing.join(", "));
        format!("{id} has no price for what its plan `{plan}` bills ({missing}): run `billing-worker stripe sync`")
    })
}

/// When it is due to end and which plan follows, if it is cancelled or scheduled to change.
fn end(of: &Subscription, schedule: Option<&Schedule>, item: &Item, now: i64) -> (Option<i64>, Option<String>) {
    if let Some(at) = of.ended_at.or(of.cancel_at) {
        return (Some(at), None);
    }
    let next = schedule
        .filter(|schedule| schedule.is_active())
        // Just after its end a period may still be the running one in Stripe: the phase after it is next.
        .and_then(|schedule| schedule.phase_from(item.current_period_end.min(now + 1)))
        // A phase with the same plan is not an end.
        .filter(|phase| !phase.prices().any(|price| price.id() == item.price.id));
    match next {
        Some(phase) => {
            let plan = phase.prices().find_map(|price| price.price().and_then(Price::plan));
            (plan.is_some().then_some(phase.start_date), plan.map(str::to_owned))
        }
        None => (None, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const START: i64 = 1_790_000_000;
    const END: i64 = START + 30 * 86_400;

    fn price(id: &str, plan: &str) -> Value {
        json!({ "id": id, "lookup_key": format!("trendit_{plan}"), "currency": "usd", "product": "trendit_x",
                "recurring": { "usage_type": "licensed" }, "metadata": { "trendit_plan": plan } })
    }

    fn fetched(id: &str, plan: &str, status: &str, more: Value) -> Fetched {
        let mut subscription = json!({
            "id": id, "customer": "cus_1", "status": status, "livemode": false, "created": START,
            "billing_cycle_anchor": START, "cancel_at_period_end": false,
            "items": { "object": "list", "has_more": false, "data": [{
                "id": format!("si_{id}"), "price": price(&format!("price_{plan}"), plan),
                "current_period_start": START, "current_period_end": END }] },
        });
        let fields = subscription.as_object_mut().unwrap();
        fields.extend(more.as_object().unwrap().clone());
        Fetched {
            subscription: serde_json::from_value(subscription).unwrap(),
            schedule: None,
            owed: None,
        }
    }

    fn of(fetched: &[Fetched]) -> Mirror {
        mirror(&Catalogue::built_in(), fetched, 3 * 86_400, START + 5)
    }

    #[test]
    fn the_newest_that_is_paid_for_is_current_in_whatever_order_they_come() {
        let old = fetched("sub_a", "pro", "active", json!({ "created": START - 10 }));
        let new = fetched("sub_b", "enterprise", "active", json!({}));
        let gone = fetched(
            "sub_c",
            "pro",
            "canceled",
            json!({ "created": START + 10, "ended_at": START + 12 }),
        );
        let one = of(&[old.clone(), new.clone(), gone.clone()]);
        assert_eq!(one, of(&[gone, new, old]));
        assert_eq!(one.current, Some(subscription_id("sub_b")));
        assert_eq!(one.subscriptions.len(), 3);
        assert!(one.alarms[0].contains("sub_a, sub_b"), "{:?}", one.alarms);
    }

    #[test]
    fn without_a_live_subscription_there_is_no_current_one() {
        for status in ["canceled", "incomplete", "incomplete_expired"] {
            let mirror = of(&[fetched("sub_a", "pro", status, json!({}))]);
            assert_eq!((mirror.current, mirror.subscriptions.len()), (None, 1), "{status}");
        }
        assert_eq!(of(&[]), Mirror::default());
    }

    #[test]
    fn grace_begins_when_the_invoice_became_payable_by_stripes_clock() {
        let mut owed = fetched("sub_a", "pro", "past_due", json!({}));
        let invoice = json!({ "currency": "usd", "total": 2900, "amount_due": 2900, "created": START, "period_start": START,
                              "period_end": START, "status_transitions": { "finalized_at": START + 3_600 } });
        owed.owed = Some(serde_json::from_value(invoice).unwrap());
        let mirror = of(&[owed]);
        assert_eq!(mirror.subscriptions[0].grace_until, Some(START + 3_600 + 3 * 86_400));
        assert!(mirror.current.is_some());
    }

    #[test]
    fn a_cancellation_ends_in_free_and_a_schedule_in_its_next_plan() {
        let cancelled = json!({ "cancel_at": END, "cancel_at_period_end": true });
        let cancelled = of(&[fetched("sub_a", "pro", "active", cancelled)])
            .subscriptions
            .remove(0);
        assert_eq!((cancelled.ends_at, cancelled.then_plan), (Some(END), None));

        let mut scheduled = fetched("sub_a", "enterprise", "active", json!({ "schedule": "sub_sched_1" }));
        let phase = |start: i64, end: i64, price: Value| json!({ "start_date": start, "end_date": end, "items": [{ "price": price }] });
        let schedule = json!({ "id": "sub_sched_1", "status": "active", "phases": [
            phase(START, END, price("price_enterprise", "enterprise")),
            phase(END, END + 2_592_000, price("price_pro", "pro")),
        ]});
        scheduled.schedule = Some(serde_json::from_value(schedule).unwrap());
        let scheduled = of(&[scheduled]).subscriptions.remove(0);
        assert_eq!(
            (scheduled.ends_at, scheduled.then_plan.as_deref()),
            (Some(END), Some("pro"))
        );
        assert_eq!(scheduled.schedule_id.as_deref(), Some("sub_sched_1"));
    }

    #[test]
    fn a_scheduled_plan_is_next_until_the_subscription_has_it() {
        let phase = |start: i64, price: Value| json!({ "start_date": start, "end_date": start + 2_592_000, "items": [{ "price": price }] });
        let schedule = json!({ "id": "sub_sched_1", "status": "active", "phases": [
            phase(START, price("price_enterprise", "enterprise")),
            phase(END, price("price_pro", "pro")),
        ]});
        let next = |plan: &str, now: i64| {
            let mut scheduled = fetched("sub_a", plan, "active", json!({ "schedule": "sub_sched_1" }));
            scheduled.schedule = Some(serde_json::from_value(schedule.clone()).unwrap());
            let mut mirror = mirror(&Catalogue::built_in(), &[scheduled], 0, now);
            mirror.subscriptions.remove(0).then_plan
        };
        // Stripe takes a moment to begin it.
        for now in [START, END - 1, END, END + 60] {
            assert_eq!(next("enterprise", now).as_deref(), Some("pro"), "{}", now - END);
        }
        assert_eq!(next("pro", END + 60), None);
    }

    #[test]
    fn a_live_subscription_without_a_price_for_what_its_plan_bills_is_told() {
        let text = include_str!("../../../schema/plans.toml").replacen(
            "usage.export = { limit = 100 }",
            "usage.export = { mode = \"metered\", unit_price_micros = 1 }",
            1,
        );
        let catalogue = Catalogue::parse(&text).unwrap();
        let alarms = |of: &[Fetched]| mirror(&catalogue, of, 0, START + 5).alarms;
        let [alarm] = alarms(&[fetched("sub_a", "pro", "active", json!({}))])
            .try_into()
            .unwrap();
        assert!(
            alarm.contains("sub_a") && alarm.contains("(export)") && alarm.contains("stripe sync"),
            "{alarm}"
        );
        let billed = json!({ "items": { "data": [
            { "id": "si_1", "price": price("price_pro", "pro"), "current_period_start": START, "current_period_end": END },
            { "id": "si_2", "current_period_start": START, "current_period_end": END, "price": {
                "id": "price_export", "currency": "usd", "product": "trendit_pro_export", "recurring": { "usage_type": "metered" },
                "metadata": { "trendit_plan": "pro", "trendit_usage_type": "export" } } },
        ] } });
        for fine in [
            fetched("sub_a", "pro", "active", billed),
            fetched("sub_a", "enterprise", "active", json!({})),
            fetched("sub_a", "pro", "canceled", json!({})),
        ] {
            assert_eq!(alarms(&[fine]), Vec::<String>::new());
        }
    }

    #[test]
    fn what_is_not_ours_is_left_and_what_we_cannot_read_is_told() {
        let foreign = json!({ "items": { "data": [{ "id": "si_1", "current_period_start": START, "current_period_end": END,
            "price": { "id": "price_x", "currency": "usd", "product": "prod_x" } }] } });
        assert_eq!(of(&[fetched("sub_a", "pro", "active", foreign)]), Mirror::default());
        for odd in [
            fetched("sub_a", "gone", "active", json!({})),
            fetched("sub_a", "pro", "asleep", json!({})),
        ] {
            let mirror = of(&[odd]);
            assert_eq!((mirror.subscriptions.len(), mirror.alarms.len()), (0, 1));
        }
    }
}
