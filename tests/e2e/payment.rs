//! A gateway refuses an account that owes an invoice, and says where to pay it.

use harness::{Client, Stack, StackOptions};
use serde_json::json;

use crate::SERVICES;

#[tokio::test(flavor = "multi_thread")]
async fn a_402_names_the_page_of_the_invoice_that_is_owed() {
    const PAGE: &str = "https://invoice.stripe.com/i/1";
    let stack = Stack::start(SERVICES, StackOptions::default()).await.unwrap();
    let ada = stack.admin.customer("ada", "pro").await.unwrap();
    sqlx::query(
        "insert into stripe_invoices (id, account_id, customer_id, livemode, status, currency, subtotal, discount, tax, total,
             amount_due, amount_paid, amount_remaining, starting_balance, created_at, period_start, period_end,
             hosted_invoice_url, fetched_at)
         values ('in_1', $1, 'cus_1', false, 'open', 'usd', 2900, 0, 0, 2900, 2900, 0, 2900, 0, now(), now(), now(), $2, now())",
    )
    .bind(ada.account_id.0)
    .bind(PAGE)
    .execute(&stack.pool)
    .await
    .unwrap();
    let owes =
        "update subscriptions set status = 'past_due', grace_until = now() - interval '1 s', owed_invoice_id = 'in_1'
                where account_id = $1";
    sqlx::query(owes)
        .bind(ada.account_id.0)
        .execute(&stack.pool)
        .await
        .unwrap();

    let client = Client::new(stack.gateway(0), &ada);
    let refused = client.spend("api_call", 1).await.unwrap();
    let problem = refused.json().unwrap();
    assert_eq!(
        (
            refused.status.as_u16(),
            &problem["error"],
            &problem["hosted_invoice_url"]
        ),
        (402, &json!("subscription_required"), &json!(PAGE))
    );
    // In a batch, too.
    let usage = json!({ "events": [{ "usage_type": "api_call", "cost_units": 1 }] });
    let batch = client.post("/v1/usage/batch", &usage).await.unwrap().json().unwrap();
    assert!(batch.to_string().contains(PAGE), "{batch}");
    stack.assert_stored(ada.account_id, 0, 0).await;
}
