//! A customer's subscriptions in Stripe as they are stored here. Pure: the result depends only on Stripe's current state, so the
//! order of events does not matter.

use schema::{Catalogue, SubscriptionId, subscription::SubscriptionStatus};

use super::{
    fetched::Fetched,
    irregular, listing,
    mirrored::{Mirrored, Unmirrored, mirrored, subscription_id},
    versions::Versions,
};
use crate::{findings::finding::Finding, stripe::object::Subscription};

/// All of a customer's subscriptions to plans of ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mirror {
    pub subscriptions: Vec<Mirrored>,
    /// The one that decides what the account may do.
    pub current: Option<SubscriptionId>,
    /// What an operator must solve.
    pub findings: Vec<Finding>,
}

/// `versions`: of these subscriptions. `grace_s`: how long a subscription keeps working after a failed payment.
pub fn mirror(catalogue: &Catalogue, versions: &Versions, fetched: &[Fetched], grace_s: i64, now: i64) -> Mirror {
    let mut mirror = Mirror::default();
    let mut live: Vec<&Subscription> = Vec::new();
    for one in fetched {
        match mirrored(catalogue, versions, one, grace_s, now) {
            Ok(mirrored) => {
                if mirrored.is_live() {
                    let found = irregular::of_live(&one.subscription, &mirrored);
                    mirror.findings.extend(found);
                    live.push(&one.subscription);
                }
                mirror.subscriptions.push(mirrored);
            }
            Err(Unmirrored::NotOurs) => {
                let unknown = Some(&one.subscription).filter(|one| listing::is_unknown(one));
                mirror.findings.extend(unknown.map(irregular::unknown));
            }
            // Nothing depends on one that has ended.
            Err(Unmirrored::Unreadable(why)) => {
                let status = SubscriptionStatus::from_stored(&one.subscription.status);
                if status.is_none_or(SubscriptionStatus::is_live) {
                    mirror.findings.push(irregular::unreadable(&one.subscription, &why));
                }
            }
        }
    }
    live.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
    mirror.findings.extend(irregular::several(&live));
    mirror
        .findings
        .sort_by(|a, b| (a.kind, &a.subject).cmp(&(b.kind, &b.subject)));
    mirror.current = listing::current(live).map(|one| subscription_id(&one.id));
    mirror.subscriptions.sort_by(|a, b| a.stripe_id.cmp(&b.stripe_id));
    mirror
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{findings::finding::FindingKind, subscriptions::segment::Segment};
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
            unpaid: Vec::new(),
            paid: Vec::new(),
        }
    }

    fn of(fetched: &[Fetched]) -> Mirror {
        mirror(
            &Catalogue::built_in(),
            &Versions::default(),
            fetched,
            3 * 86_400,
            START + 5,
        )
    }

    fn kinds(mirror: &Mirror) -> Vec<FindingKind> {
        mirror.findings.iter().map(|finding| finding.kind).collect()
    }

    #[test]
    fn the_newest_live_subscription_is_current_in_any_order() {
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
        assert_eq!(kinds(&one), [FindingKind::TwoSubscriptions]);
        assert!(one.findings[0].text.contains("sub_a, sub_b"), "{:?}", one.findings);
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
        let invoice = json!({ "id": "in_1", "status": "open", "currency": "usd", "total": 2900, "amount_due": 2900,
                              "amount_remaining": 2900, "created": START, "period_start": START, "period_end": START,
                              "status_transitions": { "finalized_at": START + 3_600 } });
        owed.unpaid = vec![serde_json::from_value(invoice).unwrap()];
        let mirror = of(std::slice::from_ref(&owed));
        assert_eq!(mirror.subscriptions[0].grace_until, Some(START + 3_600 + 3 * 86_400));
        assert_eq!(mirror.subscriptions[0].owed_invoice.as_deref(), Some("in_1"));
        assert!(mirror.current.is_some());
        // Everything is paid or void, and Stripe's status has not changed.
        owed.unpaid.clear();
        let mirror = of(&[owed]);
        let paid = &mirror.subscriptions[0];
        assert_eq!((paid.grace_until, paid.owed_invoice.as_deref()), (None, None));
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
            let mut mirror = mirror(&Catalogue::built_in(), &Versions::default(), &[scheduled], 0, now);
            mirror.subscriptions.remove(0).then_plan
        };
        // Stripe takes a moment to begin it.
        for now in [START, END - 1, END, END + 60] {
            assert_eq!(next("enterprise", now).as_deref(), Some("pro"), "{}", now - END);
        }
        assert_eq!(next("pro", END + 60), None);
    }

    #[test]
    fn a_live_subscription_without_a_price_for_billed_usage_is_a_finding() {
        let text = include_str!("../../../schema/plans.toml").replacen(
            "usage.export = { limit = 100 }",
            "usage.export = { mode = \"metered\", unit_price_micros = 1 }",
            1,
        );
        let catalogue = Catalogue::parse(&text).unwrap();
        let found = |of: &Fetched, slot: i16| {
            let of = std::slice::from_ref(of);
            let mirror = mirror(&catalogue, &Versions::default(), of, 0, START + 5);
            assert_eq!(mirror.findings, []);
            irregular::unbilled(&catalogue, &mirror.subscriptions[0], Segment { start: START, slot })
        };
        let finding = found(&fetched("sub_a", "pro", "active", json!({})), 0).unwrap();
        assert_eq!(
            (finding.kind, finding.subject.as_str()),
            (FindingKind::UnbilledUsage, "sub_a")
        );
        assert!(finding.text.contains("(export)"), "{finding:?}");
        let billed = json!({ "items": { "data": [
            { "id": "si_1", "price": price("price_pro", "pro"), "current_period_start": START, "current_period_end": END },
            { "id": "si_2", "current_period_start": START, "current_period_end": END, "price": {
                "id": "price_export", "currency": "usd", "product": "trendit_pro_export", "recurring": { "usage_type": "metered" },
                "metadata": { "trendit_plan": "pro", "trendit_usage_type": "export" } } },
        ] } });
        let billed = fetched("sub_a", "pro", "active", billed);
        assert_eq!(found(&billed, 0), None);
        assert!(found(&billed, 1).is_some(), "it bills the meters of another segment");
        assert_eq!(found(&fetched("sub_a", "enterprise", "active", json!({})), 0), None);
    }

    /// A licensed price that nobody here made, on this product.
    fn foreign(product: &str, more: Value) -> Value {
        let mut item = json!({ "id": "si_1", "current_period_start": START, "current_period_end": END, "quantity": 1,
            "price": { "id": "price_x", "currency": "usd", "product": product, "recurring": { "usage_type": "licensed" } } });
        item["price"]
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        json!({ "items": { "data": [item] } })
    }

    #[test]
    fn a_price_that_was_made_on_our_product_gives_its_plan() {
        let mirror = of(&[fetched("sub_a", "", "active", foreign("trendit_pro", json!({})))]);
        assert_eq!(mirror.subscriptions[0].plan, "pro");
        assert!(mirror.current.is_some());
        assert_eq!(kinds(&mirror), [FindingKind::ForeignPrice]);
        // Metadata say more than the product.
        let named = foreign("trendit_pro", json!({ "metadata": { "trendit_plan": "enterprise" } }));
        let mirror = of(&[fetched("sub_a", "", "active", named)]);
        assert_eq!(
            (mirror.subscriptions[0].plan.as_str(), kinds(&mirror)),
            ("enterprise", vec![])
        );
        // A metered price is not a plan.
        let other = foreign("trendit_pro", json!({ "recurring": { "usage_type": "metered" } }));
        let mirror = of(&[fetched("sub_a", "", "active", other)]);
        assert_eq!(
            (mirror.current, kinds(&mirror)),
            (None, vec![FindingKind::UnknownSubscription])
        );
        for (interval, count, months, found) in [
            ("month", 1, 1, vec![FindingKind::ForeignPrice]),
            ("year", 1, 12, vec![FindingKind::ForeignPrice]),
            ("month", 12, 12, vec![FindingKind::ForeignPrice]),
            ("month", 3, 3, vec![FindingKind::ForeignPrice, FindingKind::Interval]),
            ("week", 1, 0, vec![FindingKind::ForeignPrice, FindingKind::Interval]),
        ] {
            let recurring = json!({ "usage_type": "licensed", "interval": interval, "interval_count": count });
            let other = foreign("trendit_pro", json!({ "recurring": recurring }));
            let mirror = of(&[fetched("sub_a", "", "active", other)]);
            assert_eq!(mirror.subscriptions[0].interval_months, months, "{count} {interval}");
            assert_eq!(kinds(&mirror), found, "{count} {interval}");
        }
    }

    #[test]
    fn an_unknown_live_subscription_is_a_finding_unless_an_operator_marks_it() {
        for (status, more, expected) in [
            ("active", json!({}), vec![FindingKind::UnknownSubscription]),
            ("past_due", json!({}), vec![FindingKind::UnknownSubscription]),
            ("canceled", json!({}), vec![]),
            ("incomplete", json!({}), vec![]),
            ("active", json!({ "metadata": { "trendit": "ignore" } }), vec![]),
        ] {
            let mirror = of(&[fetched("sub_a", "", status, foreign("prod_x", more.clone()))]);
            assert_eq!((mirror.current, kinds(&mirror)), (None, expected), "{status} {more}");
        }
        let mut marked = foreign("prod_x", json!({}));
        marked["metadata"] = json!({ "trendit": "ignore" });
        assert_eq!(of(&[fetched("sub_a", "", "active", marked)]), Mirror::default());
    }

    #[test]
    fn a_quantity_and_a_pause_are_findings_while_the_subscription_lives() {
        let mut odd = foreign("trendit_pro", json!({ "metadata": { "trendit_plan": "pro" } }));
        odd["items"]["data"][0]["quantity"] = json!(3);
        odd["pause_collection"] = json!({ "behavior": "void", "resumes_at": null });
        let mirror = of(&[fetched("sub_a", "", "active", odd.clone())]);
        assert_eq!(kinds(&mirror), [FindingKind::PausedCollection, FindingKind::Quantity]);
        assert!(mirror.findings[0].text.contains("void") && mirror.findings[1].text.contains("3 times"));
        assert_eq!(kinds(&of(&[fetched("sub_a", "", "canceled", odd)])), []);
    }

    #[test]
    fn an_unreadable_subscription_is_a_finding_until_it_has_ended() {
        for (plan, status, expected) in [
            ("gone", "active", vec![FindingKind::UnreadableSubscription]),
            ("pro", "asleep", vec![FindingKind::UnreadableSubscription]),
            ("gone", "canceled", vec![]),
        ] {
            let mirror = of(&[fetched("sub_a", plan, status, json!({}))]);
            assert_eq!(
                (mirror.subscriptions.len(), kinds(&mirror)),
                (0, expected),
                "{plan} {status}"
            );
        }
    }
}
