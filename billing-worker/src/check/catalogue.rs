//! The catalogue in Stripe, subscriptions that lack a price of it, and what customers can do in the portal.

use super::row::Row;
use crate::{
    error::Error,
    stripe::catalogue::{Change, PortalConfiguration},
    subscriptions::{
        billing::Billing,
        portal,
        selling::{self, Unused},
        unbilled::{self, Unbilled},
    },
};

/// How many subscriptions are named.
const UNBILLED_MAX: i64 = 20;

const SYNC: &str = "run `billing-worker stripe sync`";

pub(super) async fn look(billing: &Billing) -> Result<Vec<Row>, Error> {
    let (stripe, admin) = (billing.stripe()?, &billing.admin);
    let compared = selling::compare(stripe, admin, Unused::Keep).await?;
    let unbilled = unbilled::list(&admin.db, &admin.catalogue, Some(UNBILLED_MAX)).await?;
    let stored = portal::configuration(&billing.admin.db, stripe.is_live()).await?;
    let mut rows = rules(&compared.changes, &unbilled);
    rows.extend(of_intervals(
        &compared.other_intervals(),
        &other_intervals(billing).await?,
    ));
    rows.extend(
        compared
            .portal()
            .iter()
            .flat_map(|found| of_portal(found, stored.as_deref())),
    );
    Ok(rows)
}

fn rules(changes: &[Change], unbilled: &[Unbilled]) -> Vec<Row> {
    let lacks = changes
        .iter()
        .map(|change| Row::error(format!("Stripe does not match the catalogue: {change}"), SYNC));
    let unbilled = unbilled.iter().map(|of| {
        let (subscription, account) = (&of.stripe_subscription_id, of.account_id);
        let usage_types = of.usage_types.join(", ");
        Row::error(
            format!("{subscription} of account {account} has no price for {usage_types}, which its plan bills"),
            SYNC,
        )
    });
    let wrong: Vec<_> = lacks.chain(unbilled).collect();
    match wrong.is_empty() {
        true => vec![Row::ok("Stripe has all products, prices and meters of the catalogue")],
        false => wrong,
    }
}

/// Running subscriptions for an interval that no plan is sold for.
async fn other_intervals(billing: &Billing) -> Result<Vec<String>, Error> {
    let found = sqlx::query_scalar!(
        r#"select stripe_subscription_id as "subscription!" from subscriptions
           where is_current and stripe_subscription_id is not null and interval_months not in (1, 12) order by 1 limit $1"#,
        UNBILLED_MAX
    );
    Ok(found.fetch_all(&billing.admin.db).await?)
}

fn of_intervals(prices: &[String], subscriptions: &[String]) -> Vec<Row> {
    let prices = prices.iter().map(|price| {
        Row::error(
            format!("the price {price} has an interval that no plan is sold for"),
            "deactivate it in Stripe: plans are sold by the month and by the year only",
        )
    });
    let subscriptions = subscriptions.iter().map(|id| {
        Row::error(
            format!("{id} is paid for an interval that no plan is sold for: its units are not charged"),
            "give it the plan's own price per month or per year in Stripe",
        )
    });
    prices.chain(subscriptions).collect()
}

/// `stored`: the id of the configuration that portal sessions name.
fn of_portal(found: &PortalConfiguration, stored: Option<&str>) -> Vec<Row> {
    let id = &found.id;
    let mut rows = Vec::new();
    if stored != Some(id) {
        rows.push(Row::error(
            format!("the configuration {id} of the customer portal is not the one that portal sessions have"),
            SYNC,
        ));
    }
    if found.changes_plans() {
        rows.push(Row::error(
            format!("customers can change their plan or quantity in the customer portal ({id})"),
            "switch plan changes off in this configuration: they skip what an upgrade does first",
        ));
    }
    if found.cancels_at_once() {
        rows.push(Row::warning(
            format!("a cancellation in the customer portal ({id}) ends the subscription at once"),
            "let it end at the end of the period: usage that is not reported yet would come after the last invoice",
        ));
    }
    match rows.is_empty() {
        true => vec![Row::ok(format!("the customer portal has the configuration {id}"))],
        false => rows,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{super::row::Level, *};

    fn portal(update: Value, cancel: Value) -> PortalConfiguration {
        let features = json!({ "subscription_update": update, "subscription_cancel": cancel });
        serde_json::from_value(
            json!({ "id": "bpc_1", "active": true, "metadata": { "trendit": "1" }, "features": features }),
        )
        .unwrap()
    }

    #[test]
    fn the_portal_changes_no_plans_and_ends_nothing_at_once() {
        let off = || json!({ "enabled": false, "mode": "immediately" });
        let at_end = || json!({ "enabled": true, "mode": "at_period_end" });
        for (update, cancel, stored, expected) in [
            (off(), at_end(), Some("bpc_1"), vec![Level::Ok]),
            (off(), off(), Some("bpc_1"), vec![Level::Ok]),
            (off(), at_end(), Some("bpc_2"), vec![Level::Error]),
            (off(), at_end(), None, vec![Level::Error]),
            (json!({ "enabled": true }), at_end(), Some("bpc_1"), vec![Level::Error]),
            (
                off(),
                json!({ "enabled": true, "mode": "immediately" }),
                Some("bpc_1"),
                vec![Level::Warning],
            ),
        ] {
            let rows = of_portal(&portal(update.clone(), cancel.clone()), stored);
            let levels: Vec<_> = rows.iter().map(|row| row.level).collect();
            assert_eq!(levels, expected, "{update} {cancel} {stored:?}");
        }
    }

    #[test]
    fn nothing_to_change_is_well() {
        assert_eq!(rules(&[], &[])[0].level, Level::Ok);
        let lacks = rules(&[Change::CreatePortal], &[]);
        assert!(lacks[0].level == Level::Error && lacks[0].what.contains("customer portal"));
    }
}
