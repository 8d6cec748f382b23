use billing_worker::webhook::comparison::{self, Compared};
use devstack::{
    StripeDoubleOptions,
    stripe_double::{AfterDunning, Card, WebhookBehavior},
};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};
use schema::Catalogue;
use serde_json::{Value, json};

use super::{
    mirror::assert_invoices,
    rig::{DAY_S, GRACE_S, Rig, Subscriber, with_overage},
};

/// Free → Pro → Enterprise → Pro at the end of the period → cancelled → Free, over three periods.
async fn live(rig: &Rig, who: &Subscriber) {
    rig.check_out(who, "pro").await;
    rig.settle().await;
    rig.turn_by(5 * DAY_S);
    rig.post(who, "upgrade", json!({ "tier": "enterprise" }))
        .await
        .ok()
        .unwrap();
    rig.turn_by(3 * DAY_S);
    rig.post(who, "upgrade", json!({ "tier": "pro" })).await.ok().unwrap();
    rig.settle().await;
    // Advances into the second period and past its draft invoice, then into the third.
    for _ in 0..2 {
        rig.turn_by(31 * DAY_S);
        rig.settle().await;
    }
    rig.post(who, "cancel", json!({})).await.ok().unwrap();
    rig.turn_by(32 * DAY_S);
    rig.settle().await;
}

fn shown(subscription: &Value) -> (&str, &str, Option<&str>) {
    (
        subscription["tier"].as_str().unwrap(),
        subscription["status"].as_str().unwrap(),
        subscription["then_tier"].as_str(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_lives_from_checkout_to_its_end_over_three_periods() {
    let rig = Rig::with(StripeDoubleOptions::default(), with_overage()).await;
    rig.listen();
    let ada = rig.subscriber("ada").await;
    assert_eq!(shown(&rig.subscription(&ada).await), ("free", "none", None));

    rig.check_out(&ada, "pro").await;
    rig.settle().await;
    let pro = rig.subscription(&ada).await;
    assert_eq!(shown(&pro), ("pro", "active", None));
    assert_eq!(pro["limits"][0]["limit"], 10_000);
    assert_eq!(pro["limits"][1]["mode"], "overage");

    rig.turn_by(10 * DAY_S);
    let preview = rig
        .post(&ada, "upgrade", json!({ "tier": "enterprise", "preview": true }))
        .await
        .ok()
        .unwrap();
    let due = preview["amount_due_cents"].as_i64().unwrap();
    // About two thirds of $299 - $29.
    assert!((16_000..21_000).contains(&due), "{preview}");
    let upgraded = rig
        .post(&ada, "upgrade", json!({ "tier": "enterprise" }))
        .await
        .ok()
        .unwrap();
    assert_eq!(shown(&upgraded), ("enterprise", "active", None));
    assert_eq!(upgraded["period_start"], pro["period_start"], "the period continues");
    let invoices = rig.get(&ada, "invoices").await;
    assert_eq!(
        invoices["items"][0]["amount_due_cents"].as_i64(),
        Some(due),
        "{invoices}"
    );

    let preview = rig
        .post(&ada, "upgrade", json!({ "tier": "pro", "preview": true }))
        .await
        .ok()
        .unwrap();
    assert_eq!(
        (preview["amount_due_cents"].as_i64(), &preview["effective_at"]),
        (Some(0), &pro["period_end"])
    );
    let scheduled = rig.post(&ada, "upgrade", json!({ "tier": "pro" })).await.ok().unwrap();
    assert_eq!(shown(&scheduled), ("enterprise", "active", Some("pro")));
    assert_eq!(scheduled["ends_at"], pro["period_end"]);
    let resumed = rig.post(&ada, "resume", json!({})).await.ok().unwrap();
    assert_eq!(shown(&resumed), ("enterprise", "active", None));
    rig.post(&ada, "upgrade", json!({ "tier": "pro" })).await.ok().unwrap();

    rig.turn_by(21 * DAY_S + 7_200);
    // The scheduled plan is in force before any event about it arrives.
    assert_eq!(rig.subscription(&ada).await["tier"], "pro");
    rig.settle().await;
    let second = rig.subscription(&ada).await;
    assert_eq!(shown(&second), ("pro", "active", None));
    assert_eq!(second["period_start"], pro["period_end"]);

    let cancelled = rig
        .post(&ada, "cancel", json!({ "when": "period_end" }))
        .await
        .ok()
        .unwrap();
    assert_eq!(
        (cancelled["cancel_at_period_end"].as_bool(), &cancelled["ends_at"]),
        (Some(true), &second["period_end"])
    );
    let kept = rig.post(&ada, "resume", json!({})).await.ok().unwrap();
    assert_eq!(
        (kept["cancel_at_period_end"].as_bool(), kept["ends_at"].is_null()),
        (Some(false), true)
    );
    rig.post(&ada, "cancel", json!({})).await.ok().unwrap();
    rig.turn_by(31 * DAY_S);
    rig.settle().await;
    assert_eq!(shown(&rig.subscription(&ada).await), ("free", "none", None));
    assert_eq!(rig.customers(&ada).len(), 1);

    // Other changes are made on Stripe's own page.
    let portal = rig.post(&ada, "portal-session", json!({})).await.ok().unwrap();
    let page = rig.http.get(portal["portal_url"].as_str().unwrap(), "").await.unwrap();
    assert_eq!(page.status.as_u16(), 200);

    // A new subscription uses the same customer.
    rig.check_out(&ada, "enterprise").await;
    rig.settle().await;
    let now = rig.post(&ada, "cancel", json!({ "when": "now" })).await.ok().unwrap();
    assert_eq!(shown(&now), ("free", "none", None));
    assert_eq!(rig.customers(&ada).len(), 1);
    assert_eq!(
        comparison::run(&rig.billing).await.unwrap(),
        Compared {
            accounts: 1,
            mended: 0,
            failed: 0,
            reversals: 0
        }
    );
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_state_results_from_every_order_of_events() {
    for seed in 0..6_u64 {
        let mut rng = StdRng::seed_from_u64(seed);
        let options = StripeDoubleOptions {
            webhooks: WebhookBehavior {
                hold: true,
                ..WebhookBehavior::default()
            },
            ..StripeDoubleOptions::default()
        };
        let rig = Rig::with(options, Catalogue::built_in()).await;
        rig.listen();
        let ada = rig.subscriber("ada").await;
        // Nothing is delivered during this time, so `settle` would not wait for anything.
        rig.check_out(&ada, "pro").await;
        rig.turn_by(5 * DAY_S);
        rig.post(&ada, "upgrade", json!({ "tier": "enterprise" }))
            .await
            .ok()
            .unwrap();
        rig.turn_by(2 * DAY_S);
        rig.post(&ada, "upgrade", json!({ "tier": "pro" })).await.ok().unwrap();
        rig.turn_by(31 * DAY_S);
        rig.turn_by(31 * DAY_S);
        rig.post(&ada, "cancel", json!({})).await.ok().unwrap();
        rig.turn_by(32 * DAY_S);

        // Then all events are delivered, some twice, shuffled, and processed in between or not.
        let mut events: Vec<String> = rig.control().events().into_iter().map(|event| event.id).collect();
        let twice: Vec<String> = events.iter().filter(|_| rng.random_bool(0.3)).cloned().collect();
        events.extend(twice);
        events.shuffle(&mut rng);
        for event in &events {
            let answers = rig.control().deliver(event).await;
            assert_eq!(answers, [Some(200)], "seed {seed}");
            if rng.random_bool(0.2) {
                rig.work().await;
            }
        }
        rig.work().await;
        let state = rig.state(&ada).await.unwrap();
        assert_eq!(
            shown(&rig.subscription(&ada).await),
            ("free", "none", None),
            "seed {seed}"
        );
        assert_eq!(state["periods"].as_array().unwrap().len(), 3, "seed {seed}: {state}");
        assert!(
            state["periods"]
                .as_array()
                .unwrap()
                .iter()
                .all(|period| !period["final_at"].is_null()),
            "seed {seed}: {state}"
        );
        assert_invoices(&rig, &ada).await;

        // A comparison with Stripe finds nothing that the events missed. Processed again, in order, they give the same result.
        let compared = comparison::run(&rig.billing).await.unwrap();
        assert_eq!(compared.mended, 0, "seed {seed}");
        for event in rig.control().events() {
            rig.control().deliver(&event.id).await;
        }
        sqlx::query("update webhook_events set state = 'received', attempts = 0 where state = 'done'")
            .execute(&rig.pool)
            .await
            .unwrap();
        rig.work().await;
        assert_eq!(rig.state(&ada).await.unwrap(), state, "seed {seed}");
        rig.assert_valid();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn doubled_shuffled_and_delayed_webhooks_change_nothing() {
    let options = StripeDoubleOptions {
        webhooks: WebhookBehavior {
            copies: 2,
            shuffle: true,
            drop_first: 1,
            ..WebhookBehavior::default()
        },
        ..StripeDoubleOptions::default()
    };
    let rig = Rig::with(options, Catalogue::built_in()).await;
    rig.listen();
    let before = rig.control().events().len();
    let ada = rig.subscriber("ada").await;
    live(&rig, &ada).await;
    assert_eq!(shown(&rig.subscription(&ada).await), ("free", "none", None));
    let stored: i64 = sqlx::query_scalar("select count(*) from webhook_events")
        .fetch_one(&rig.pool)
        .await
        .unwrap();
    assert_eq!(
        stored as usize,
        rig.control().events().len() - before,
        "each event once"
    );
    assert_eq!(comparison::run(&rig.billing).await.unwrap().mended, 0);
    rig.assert_valid();
}

/// A subscriber to Pro, and its customer in Stripe. Its card is declined from now on and retried after this many days.
async fn declined(again_days: i64) -> (Rig, Subscriber, String) {
    let rig = Rig::start().await;
    rig.control().set_dunning(vec![again_days], AfterDunning::Unpaid);
    rig.listen();
    let ada = rig.subscribed("ada", "pro").await;
    let customer = rig.customers(&ada).remove(0);
    rig.control().set_card(&customer, Some(Card::Declines)).unwrap();
    (rig, ada, customer)
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failed_payment_the_subscription_works_for_the_grace_period_and_no_longer() {
    let (rig, ada, customer) = declined(10).await;
    // Advances into the next period and past the hour of the draft invoice.
    rig.turn_by(31 * DAY_S + 7_200);
    rig.settle().await;
    let owed = rig.subscription(&ada).await;
    assert_eq!(shown(&owed), ("pro", "past_due", None));
    assert_eq!(owed["payment_required"], false);
    let invoices = rig.control().invoices(&customer);
    let invoice = invoices.iter().find(|invoice| invoice["status"] == "open").unwrap();
    let finalized = invoice["status_transitions"]["finalized_at"].as_i64().unwrap();
    let grace_until: i64 =
        sqlx::query_scalar("select extract(epoch from grace_until)::bigint from subscriptions where is_current")
            .fetch_one(&rig.pool)
            .await
            .unwrap();
    assert_eq!(grace_until, finalized + GRACE_S, "by Stripe's clock");

    rig.turn_to(grace_until - 60);
    assert_eq!(rig.subscription(&ada).await["payment_required"], false);
    rig.turn_to(grace_until);
    assert_eq!(rig.subscription(&ada).await["payment_required"], true);

    rig.control().set_card(&customer, Some(Card::Ok)).unwrap();
    rig.control().pay_invoice(invoice["id"].as_str().unwrap()).unwrap();
    rig.settle().await;
    let paid = rig.subscription(&ada).await;
    assert_eq!(
        (shown(&paid), paid["payment_required"].as_bool()),
        (("pro", "active", None), Some(false))
    );
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_unpaid_invoice_starts_no_new_grace_period() {
    let (rig, ada, customer) = declined(70).await;
    rig.end_period(&ada).await;
    let until = async || {
        let state = rig.state(&ada).await.unwrap();
        let current = &state["subscriptions"][0];
        assert_eq!(current["status"], "past_due");
        current["grace_until"].as_str().unwrap().to_owned()
    };
    let first = until().await;
    // An upgrade that waits for its payment is not a debt, and the next month's invoice does not replace the older one.
    let upgrade = rig.post(&ada, "upgrade", json!({ "tier": "enterprise" })).await;
    assert_eq!(upgrade.status.as_u16(), 402);
    rig.settle().await;
    assert_eq!(until().await, first);
    rig.end_period(&ada).await;
    let open = rig.control().invoices(&customer).into_iter();
    assert_eq!(open.filter(|invoice| invoice["status"] == "open").count(), 2);
    assert_eq!(until().await, first);
    assert_eq!(rig.subscription(&ada).await["payment_required"], true);
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_begins_without_the_hosted_page_once_its_payment_is_confirmed() {
    let rig = Rig::start().await;
    rig.listen();
    let ada = rig.subscriber("ada").await;
    let begun = rig
        .post(&ada, "subscriptions", json!({ "tier": "pro" }))
        .await
        .ok()
        .unwrap();
    assert_eq!(begun["status"], "incomplete");
    assert!(begun["client_secret"].as_str().unwrap().contains("_secret_"), "{begun}");
    rig.settle().await;
    assert_eq!(shown(&rig.subscription(&ada).await), ("free", "none", None));
    // A second request gets the same one.
    let again = rig
        .post(&ada, "subscriptions", json!({ "tier": "pro" }))
        .await
        .ok()
        .unwrap();
    assert_eq!(again, begun);

    let customer = rig.customers(&ada).remove(0);
    rig.control().set_card(&customer, Some(Card::Ok)).unwrap();
    let invoice = rig.control().invoices(&customer).remove(0);
    rig.control().pay_invoice(invoice["id"].as_str().unwrap()).unwrap();
    rig.settle().await;
    assert_eq!(shown(&rig.subscription(&ada).await), ("pro", "active", None));
    rig.assert_valid();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customer_who_is_deleted_in_stripe_is_free_and_may_come_back() {
    let rig = Rig::start().await;
    rig.listen();
    let ada = rig.subscribed("ada", "pro").await;
    let customer = rig.customers(&ada).remove(0);
    let url = format!("{}/v1/customers/{customer}", rig.stripe.url());
    rig.http.delete(&url, rig.stripe.api_key()).await.unwrap().ok().unwrap();
    rig.settle().await;
    assert_eq!(shown(&rig.subscription(&ada).await), ("free", "none", None));
    rig.check_out(&ada, "pro").await;
    rig.settle().await;
    assert_eq!(shown(&rig.subscription(&ada).await), ("pro", "active", None));
}
