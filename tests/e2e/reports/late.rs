//! Usage and corrections that arrive after their period's invoice was finalized.

use billing_worker::reports::{LateUsage, ReportSettings};
use devstack::{
    StripeDoubleOptions,
    stripe_double::{FaultKind, FaultRule},
};
use http::Method;
use serde_json::Value;

use super::rig::{Account, DAY, HOUR, Rig, month};

#[tokio::test(flavor = "multi_thread")]
async fn the_last_usage_of_a_period_is_reported_in_it_while_its_invoice_is_a_draft() {
    let rig = Rig::start().await;
    let account = rig.account().await;
    rig.use_units(&account, month(0), "api_call", &[5]).await;
    rig.stripe.advance_to(month(0).end + HOUR / 2);
    rig.add_period(std::slice::from_ref(&account), month(1)).await;
    rig.use_units(&account, month(1), "api_call", &[7]).await;
    // Only one report at a time for a customer and a meter, in whatever period.
    rig.step().await;
    rig.step().await;
    assert_eq!(rig.reported(&account, month(0), "api_call"), 5);
    assert_eq!(rig.reported(&account, month(1), "api_call"), 7);
    rig.assert_told_is_counted(&[account], &[month(0), month(1)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn late_usage_and_late_credits_are_carried_into_the_next_period() {
    let rig = Rig::start().await;
    let account = rig.account().await;
    rig.use_units(&account, month(0), "api_call", &[100]).await;
    rig.step().await;
    rig.stripe.advance_to(month(0).end + 2 * HOUR);
    rig.finalize(month(0)).await;
    rig.use_units(&account, month(0), "api_call", &[8]).await;
    // The webhook of the next period has not arrived yet: the units wait and are listed.
    rig.step().await;
    let waiting = rig.attention().await.waiting_carries;
    assert_eq!(waiting.iter().map(|carry| carry.units).collect::<Vec<_>>(), [8]);
    rig.add_period(std::slice::from_ref(&account), month(1)).await;
    rig.step().await;
    assert!(rig.attention().await.waiting_carries.is_empty());
    assert_eq!(rig.reported(&account, month(1), "api_call"), 8);

    rig.correct(&account, month(0), "api_call", 3).await;
    let step = rig.step().await;
    assert_eq!((step.carries, step.sent.delivered, step.drifts), (1, 1, 0));
    assert_eq!(
        rig.reported(&account, month(0), "api_call"),
        100,
        "a final period does not change"
    );
    assert_eq!(rig.reported(&account, month(1), "api_call"), 5);
    let carries: Vec<(i64, String)> = sqlx::query_as("select units, reason from meter_carries order by id")
        .fetch_all(&rig.db)
        .await
        .unwrap();
    assert_eq!(carries, [(8, "final".to_owned()), (-3, "final".to_owned())]);
    rig.assert_told_is_counted(&[account], &[month(0), month(1)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_that_is_too_old_for_a_timestamp_is_carried_and_an_open_report_is_withdrawn() {
    let rig = Rig::start().await;
    let account = rig.account().await;
    rig.use_units(&account, month(0), "api_call", &[100]).await;
    rig.stripe
        .add_fault(rig.fault(FaultKind::TooManyRequests { retry_after_s: None }));
    rig.step().await;
    rig.stripe.advance_to(month(1).end + 10 * DAY);
    rig.add_period(std::slice::from_ref(&account), month(2)).await;
    rig.step().await;
    assert_eq!(rig.count("withdrawn").await, 1);
    rig.stripe.clear_faults();
    rig.step().await;
    rig.step().await;
    assert_eq!(rig.reported(&account, month(0), "api_call"), 0);
    assert_eq!(rig.reported(&account, month(2), "api_call"), 100);
    rig.assert_told_is_counted(&[account], &[month(0), month(2)]).await;
}

/// A report with an unknown outcome is not sent again once its period is final, because it would be on no invoice.
#[tokio::test(flavor = "multi_thread")]
async fn a_report_of_a_final_period_with_an_unknown_outcome_is_compared_and_then_delivered_or_carried() {
    for is_applied in [true, false] {
        let rig = Rig::start().await;
        let account = rig.account().await;
        rig.stripe.advance_to(month(0).end - 600);
        rig.use_units(&account, month(0), "api_call", &[9]).await;
        let fault = rig.fault(FaultKind::Reset).times(1);
        rig.stripe.add_fault(if is_applied { fault.after() } else { fault });
        rig.step().await;
        rig.stripe.advance_to(month(0).end + HOUR / 2);
        rig.finalize(month(0)).await;
        rig.add_period(std::slice::from_ref(&account), month(1)).await;
        rig.step().await;
        rig.stripe.advance_by(HOUR);
        for _ in 0..3 {
            rig.step().await;
        }
        let expected = if is_applied { (9, 0) } else { (0, 9) };
        let reported = |n| rig.reported(&account, month(n), "api_call");
        assert_eq!((reported(0), reported(1)), expected);
        rig.assert_told_is_counted(&[account], &[month(0), month(1)]).await;
    }
}

pub(super) async fn items(rig: &Rig, account: &Account) -> Vec<i64> {
    let customer = [("customer", account.customer.clone())];
    let items = rig.call(Method::GET, "/v1/invoiceitems", &customer).await;
    let mut amounts: Vec<_> = items["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["amount"].as_i64().unwrap())
        .collect();
    amounts.sort_unstable();
    amounts
}

/// A graduated price: 100 units are included, each further one is 7 cents.
async fn subscribe(rig: &Rig, account: &Account) -> String {
    let meters = rig.call(Method::GET, "/v1/billing/meters", &[]).await;
    let is_export = |meter: &&Value| meter["event_name"] == "trendit_export";
    let meter = meters["data"].as_array().unwrap().iter().find(is_export).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let product = [("name", "Exports".to_owned())];
    let product = rig.call(Method::POST, "/v1/products", &product).await;
    let price = [
        ("currency", "usd".to_owned()),
        ("product", text(&product["id"])),
        ("billing_scheme", "tiered".to_owned()),
        ("tiers_mode", "graduated".to_owned()),
        ("tiers[0][up_to]", "100".to_owned()),
        ("tiers[0][unit_amount]", "0".to_owned()),
        ("tiers[1][up_to]", "inf".to_owned()),
        ("tiers[1][unit_amount]", "7".to_owned()),
        ("recurring[interval]", "month".to_owned()),
        ("recurring[usage_type]", "metered".to_owned()),
        ("recurring[meter]", text(&meter["id"])),
    ];
    let price = rig.call(Method::POST, "/v1/prices", &price).await;
    let rows = "with plan as (insert into plans (id, name, price_cents, position) values ('pro', 'Pro', 0, 1) returning id),
         s as (insert into subscriptions (id, account_id, plan_id, status, period_start, period_end, billing_anchor,
             stripe_subscription_id)
         select gen_random_uuid(), $1, plan.id, 'active', p.period_start, p.period_end, p.period_start,
             p.stripe_subscription_id from plan, billing_periods p where p.account_id = $1 returning id, period_start, period_end)
         insert into subscription_items (stripe_item_id, subscription_id, price_id, usage_type, period_start, period_end)
         select 'si_' || id, id, $2, 'export', period_start, period_end from s";
    let rows = sqlx::query(rows).bind(account.id.0).bind(text(&price["id"]));
    rows.execute(&rig.db).await.unwrap();
    text(&price["id"])
}

pub(super) async fn charging() -> (Rig, Account, String) {
    subscribed(LateUsage::CreditOrCharge).await
}

/// An account that is billed for exports, and the price of them.
pub(super) async fn subscribed(late_usage: LateUsage) -> (Rig, Account, String) {
    let settings = ReportSettings {
        late_usage,
        ..ReportSettings::default()
    };
    let rig = Rig::with(StripeDoubleOptions::default(), settings).await;
    let account = rig.account().await;
    let price = subscribe(&rig, &account).await;
    (rig, account, price)
}

#[tokio::test(flavor = "multi_thread")]
async fn late_usage_is_charged_once_by_the_price_and_its_correction_waits_for_the_invoice() {
    let (rig, account, _) = charging().await;
    rig.use_units(&account, month(0), "export", &[98]).await;
    rig.use_units(&account, month(0), "api_call", &[5]).await;
    rig.step().await;
    rig.stripe.advance_to(month(0).end + 2 * HOUR);
    rig.finalize(month(0)).await;
    // 98 were reported, 100 are included: 10 of 12 late ones cost 7 cents each. Stripe makes the item, and its response is lost.
    rig.use_units(&account, month(0), "export", &[12]).await;
    // Without a metered price, nothing is billed.
    rig.use_units(&account, month(0), "api_call", &[5]).await;
    let fault = FaultRule::new(FaultKind::ServerError)
        .path("/v1/invoiceitems")
        .method("POST")
        .after();
    rig.stripe.add_fault(fault);
    rig.step().await;
    assert_eq!(items(&rig, &account).await, [70]);
    let waiting = rig.attention().await.waiting_carries;
    assert_eq!(waiting.len(), 1, "its outcome is unknown");
    rig.stripe.clear_faults();
    // Later than Stripe remembers an idempotency key.
    rig.stripe.advance_by(25 * HOUR);
    rig.step().await;
    assert_eq!(items(&rig, &account).await, [70], "the item was found, not made again");

    // By now the period is frozen: a correction thaws it.
    rig.correct(&account, month(0), "export", 4).await;
    rig.step().await;
    assert_eq!(items(&rig, &account).await, [70]);
    let waiting = rig.attention().await.waiting_carries.pop().unwrap();
    assert_eq!((waiting.units, waiting.policy.as_str()), (-4, "credit"));
    assert!(waiting.error.unwrap().contains("not final"));
    assert_eq!(rig.reported(&account, month(0), "export"), 98);
    rig.assert_told_is_counted(&[account], &[month(0)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn late_usage_has_the_price_of_its_own_period_and_not_of_the_next_plan() {
    let (rig, account, price) = charging().await;
    let known = "update billing_periods set prices = jsonb_build_object('export', $1::text)";
    sqlx::query(known).bind(price).execute(&rig.db).await.unwrap();
    rig.use_units(&account, month(0), "export", &[98]).await;
    rig.use_units(&account, month(0), "api_call", &[5]).await;
    rig.step().await;
    rig.stripe.advance_to(month(0).end + 2 * HOUR);
    rig.finalize(month(0)).await;
    // The next plan bills other usage types.
    let switched = "update subscription_items set usage_type = 'api_call', price_id = 'price_of_another_plan'";
    sqlx::query(switched).execute(&rig.db).await.unwrap();
    rig.use_units(&account, month(0), "export", &[12]).await;
    rig.use_units(&account, month(0), "api_call", &[12]).await;
    rig.step().await;
    assert_eq!(items(&rig, &account).await, [70]);
    assert!(rig.attention().await.waiting_carries.is_empty());
    rig.assert_told_is_counted(&[account], &[month(0)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn late_usage_of_a_customer_without_a_subscription_gets_a_separate_invoice() {
    let (rig, account, _) = charging().await;
    rig.use_units(&account, month(0), "export", &[100]).await;
    rig.step().await;
    rig.stripe.advance_to(month(0).end + 2 * HOUR);
    rig.finalize(month(0)).await;
    let ended = "update subscriptions set is_current = false";
    sqlx::query(ended).execute(&rig.db).await.unwrap();
    rig.use_units(&account, month(0), "export", &[10]).await;
    // Stripe creates the item, then the response for the invoice is lost. Neither is created twice.
    let fault = FaultRule::new(FaultKind::ServerError)
        .path("/v1/invoices")
        .method("POST");
    rig.stripe.add_fault(fault.after());
    rig.step().await;
    assert_eq!(rig.attention().await.waiting_carries.len(), 1);
    rig.stripe.clear_faults();
    rig.stripe.advance_by(HOUR);
    rig.step().await;
    assert!(rig.attention().await.waiting_carries.is_empty());
    assert_eq!(items(&rig, &account).await, [70]);
    rig.stripe.advance_by(2 * HOUR);
    let invoices = rig.stripe.invoices(&account.customer);
    let shown: Vec<_> = invoices
        .iter()
        .map(|invoice| (&invoice["total"], &invoice["status"]))
        .collect();
    assert_eq!(shown.len(), 1, "{invoices:?}");
    assert_eq!(*shown[0].0, 70);
    assert_ne!(*shown[0].1, "draft");
    rig.assert_told_is_counted(&[account], &[month(0)]).await;
}
