//! The invoices for the units of a year belong to no subscription in Stripe. Whoever does not pay them is refused all the same.

use devstack::stripe_double::Card;
use http::Method;
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    super::{
        owed::{invoices, is, shown},
        rig::{DAY_S, GRACE_S, Rig, Subscriber},
    },
    asked, start,
};

/// A subscriber whose bank declines the invoice for a month's units: $1.50. Returns the invoice.
async fn unpaid(rig: &Rig) -> (Subscriber, Value) {
    let ada = rig.paid_per_year("ada", "pro").await;
    let customer = rig.customers(&ada).remove(0);
    rig.use_units(&ada, "api_call", 1_100).await;
    rig.control().set_card(&customer, Some(Card::Declines)).unwrap();
    rig.end_month(&ada).await;
    let mut open = invoices(rig, &customer, "open");
    assert_eq!(open.len(), 1, "{open:?}");
    let owed = open.remove(0);
    assert_eq!(owed["amount_remaining"], 150);
    (ada, owed)
}

#[tokio::test(flavor = "multi_thread")]
async fn units_that_nobody_pays_begin_a_grace_period_and_then_a_402() {
    for end in ["paid", "void"] {
        let rig = start("monthly").await;
        let (ada, owed) = unpaid(&rig).await;
        let id = owed["id"].as_str().unwrap();
        let grace_until = owed["status_transitions"]["finalized_at"].as_i64().unwrap() + GRACE_S;
        let subscription = rig.subscription(&ada).await;
        let until = OffsetDateTime::parse(subscription["grace_until"].as_str().unwrap(), &Rfc3339);
        assert_eq!(until.unwrap().unix_timestamp(), grace_until);
        assert_eq!(
            (
                &subscription["owed_invoice"]["id"],
                &subscription["owed_invoice"]["hosted_invoice_url"]
            ),
            (&owed["id"], &owed["hosted_invoice_url"])
        );
        assert_eq!(shown(&rig, &ada).await, is("pro", "active", false));
        for preview in [true, false] {
            let body = json!({ "tier": "enterprise", "preview": preview });
            let (status, error, _) = asked(&rig, &ada, "upgrade", body).await;
            assert_eq!((status, error.as_str()), (402, "payment_required"));
        }

        rig.turn_to(grace_until);
        assert_eq!(shown(&rig, &ada).await, is("pro", "active", true));
        match end {
            "paid" => rig.control().pay_invoice(id).unwrap(),
            _ => {
                let path = format!("/v1/invoices/{id}/void");
                rig.call_stripe(Method::POST, &path, "").await;
            }
        }
        rig.settle().await;
        assert_eq!(shown(&rig, &ada).await, is("pro", "active", false), "{end}");
        let subscription = rig.subscription(&ada).await;
        for member in ["grace_until", "owed_invoice"] {
            assert_eq!(subscription[member], Value::Null, "{end}");
        }
        rig.turn_by(4 * DAY_S);
        rig.settle().await;
        assert_eq!(shown(&rig, &ada).await, is("pro", "active", false), "{end}");
        // A void invoice is given up, and no difference.
        let invoiced = if end == "paid" { 29_150 } else { 29_000 };
        assert_eq!(rig.explained().await, [29_150, invoiced, 0, 0], "{end}");
        rig.assert_valid();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn units_of_a_year_that_ended_are_paid_before_the_next_subscription() {
    let rig = start("monthly").await;
    let (ada, owed) = unpaid(&rig).await;
    rig.post(&ada, "cancel", json!({ "when": "now" })).await.ok().unwrap();
    rig.settle().await;
    assert_eq!(shown(&rig, &ada).await, is("free", "none", false));
    assert_eq!(rig.subscription(&ada).await["owed_invoice"]["id"], owed["id"]);
    let body = json!({ "tier": "pro", "interval": "year" });
    let refused = rig.post(&ada, "create-checkout-session", body.clone()).await;
    let problem = refused.json().unwrap();
    assert_eq!(
        (&problem["error"], &problem["invoice_id"]),
        (&json!("payment_required"), &owed["id"])
    );
    rig.control().pay_invoice(owed["id"].as_str().unwrap()).unwrap();
    rig.settle().await;
    assert_eq!(rig.subscription(&ada).await["owed_invoice"], Value::Null);
    rig.post(&ada, "create-checkout-session", body).await.ok().unwrap();
    rig.assert_valid();
}
