//! Subscriptions that pay for a plan: how Stripe bills them, and by which payment method.

use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Value;
use stripe_billing::subscription::ListSubscription;

use super::row::Row;
use crate::{
    error::Error,
    stripe::object::Subscription,
    subscriptions::{billing::Billing, payment_method::Payer},
};

/// Pages of a hundred subscriptions: of more, the newest are looked at.
const PAGES_MAX: usize = 10;
/// How many are named.
const NAMED_MAX: usize = 10;

struct Paying {
    subscription: Subscription,
    payer: Payer,
    /// Stripe's older way to bill.
    is_classic: bool,
}

impl<'de> Deserialize<'de> for Paying {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        Ok(Self {
            is_classic: value["billing_mode"]["type"] == "classic",
            subscription: Subscription::deserialize(&value).map_err(D::Error::custom)?,
            payer: Payer::deserialize(&value).map_err(D::Error::custom)?,
        })
    }
}

pub(super) async fn look(billing: &Billing) -> Result<Vec<Row>, Error> {
    let page = |after: Option<String>| {
        // Stripe leaves out those that have ended.
        let expanded = Payer::EXPANDED.map(|field| format!("data.{field}")).to_vec();
        let list = ListSubscription::new().limit(100).expand(expanded);
        match after {
            Some(after) => list.starting_after(after),
            None => list,
        }
    };
    let paying: Vec<Paying> = billing
        .stripe()?
        .pages(PAGES_MAX, page, |one: &Paying| &one.subscription.id)
        .await?;
    Ok(rules(&paying))
}

fn rules(paying: &[Paying]) -> Vec<Row> {
    let ours = || paying.iter().filter(|one| one.subscription.plan_item().is_some());
    let is_metered = |one: &&Paying| one.subscription.items.data.iter().any(|item| item.price.is_metered());
    let classic: Vec<_> = ours().filter(|one| one.is_classic).filter(is_metered).map(id).collect();
    let slow: Vec<_> = ours().filter(|one| one.payer.slow().is_some()).map(id).collect();
    let mut rows = Vec::new();
    if !classic.is_empty() {
        rows.push(Row::error(
            format!(
                "{} have metered prices and the billing mode classic: a change loses usage",
                named(&classic)
            ),
            "move them to the billing mode flexible in Stripe (POST /v1/subscriptions/{id}/migrate)",
        ));
    }
    if !slow.is_empty() {
        rows.push(Row::warning(
            format!(
                "{} are not paid by a card or by Link: no larger plan can begin at once",
                named(&slow)
            ),
            "nothing, or ask these customers for a card; they can change the plan at the end of the period",
        ));
    }
    rows
}

fn id(one: &Paying) -> &str {
    &one.subscription.id
}

fn named(ids: &[&str]) -> String {
    let first = ids[..ids.len().min(NAMED_MAX)].join(", ");
    match ids.len().checked_sub(NAMED_MAX) {
        None | Some(0) => first,
        Some(more) => format!("{first} and {more} others"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::row::Level, *};

    fn paying(mode: &str, usage_type: &str, method: Value) -> Paying {
        let item = |usage_type: &str| {
            json!({ "id": "si_1", "current_period_start": 0, "current_period_end": 1, "price": { "id": "price_1", "currency": "usd",
                "product": "trendit_pro", "metadata": { "trendit_plan": "pro" }, "recurring": { "usage_type": usage_type } } })
        };
        let subscription = json!({ "id": "sub_1", "status": "active", "livemode": false, "currency": "usd", "created": 0,
            "billing_cycle_anchor": 0,
            "items": { "data": [item("licensed"), item(usage_type)] }, "billing_mode": { "type": mode },
            "default_payment_method": null, "customer": { "id": "cus_1", "invoice_settings": { "default_payment_method": method } } });
        serde_json::from_value(subscription).unwrap()
    }

    #[test]
    fn classic_metered_subscriptions_and_slow_payments_are_rows() {
        let card = || json!({ "type": "card" });
        let debit = || json!({ "type": "us_bank_account" });
        for (mode, usage_type, method, expected) in [
            ("flexible", "metered", card(), vec![]),
            ("classic", "licensed", card(), vec![]),
            ("classic", "metered", Value::Null, vec![Level::Error]),
            ("flexible", "metered", debit(), vec![Level::Warning]),
        ] {
            let rows = rules(&[paying(mode, usage_type, method)]);
            let levels: Vec<_> = rows.iter().map(|row| row.level).collect();
            assert_eq!(levels, expected, "{mode} {usage_type}");
        }
    }

    #[test]
    fn only_the_first_are_named() {
        let ids = vec!["sub"; 12];
        assert!(named(&ids).ends_with("sub and 2 others"));
        assert_eq!(named(&ids[..1]), "sub");
    }
}
