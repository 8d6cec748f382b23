//! Copies invoices without an event: those from before the first event, and what no event reported.

use schema::AccountId;
use stripe_billing::invoice::ListInvoice;

use super::{
    fetch::{Wanted, fetch},
    store::store,
};
use crate::{
    accounts::customers,
    error::Error,
    stripe::object::{Invoice, List},
    subscriptions::{billing::Billing, lease::Lease},
};

/// Invoices that are read under one lease.
const PAGE: i64 = 20;
/// Ten thousand invoices.
const PAGES_MAX: usize = 500;

/// Copies all of the account's invoices the first time. Later the latest ones, and those that are not settled here. Each page is
/// read and stored under a lease of its own, so that other work on the account does not wait for all of them.
pub async fn compare(billing: &Billing, account: AccountId) -> Result<(), Error> {
    let billing = &billing.of(account);
    let Some(customer) = customers::find(&billing.admin.db, account, billing.stripe()?.is_live()).await? else {
        return Ok(());
    };
    let is_first = is_first(billing, account).await?;
    let mut after = None;
    for _ in 0..PAGES_MAX {
        after = page(billing, account, &customer, after).await?;
        if after.is_none() || !is_first {
            break;
        }
    }
    if is_first {
        sqlx::query!(
            "update stripe_customers set invoices_copied_at = now() where account_id = $1 and customer_id = $2",
            account.0,
            customer
        )
        .execute(&billing.admin.db)
        .await?;
    }
    Ok(())
}

/// Copies a page of the invoices, newest first. Returns the last one, if there are more.
async fn page(
    billing: &Billing,
    account: AccountId,
    customer: &str,
    after: Option<String>,
) -> Result<Option<String>, Error> {
    let lease = billing.lease(account).await?;
    let copied = copy(billing, &lease, customer, after).await;
    lease.release().await;
    copied
}

async fn copy(
    billing: &Billing,
    lease: &Lease,
    customer: &str,
    after: Option<String>,
) -> Result<Option<String>, Error> {
    let account = lease.account();
    let mut list = ListInvoice::new().customer(customer).limit(PAGE);
    let named = match after {
        Some(after) => {
            list = list.starting_after(after);
            Vec::new()
        }
        None => unsettled(billing, account).await?,
    };
    let page: List<Invoice> = billing.stripe()?.read(&list).await?;
    let last = page.data.last().map(|invoice| invoice.id.clone());
    let wanted = Wanted {
        read: page.data,
        named,
        ..Wanted::default()
    };
    let fetched = fetch(billing, account, customer, wanted).await?;
    let mut tx = lease.begin().await?;
    store(&mut tx, account, &fetched, billing.clock.now_s()).await?;
    tx.commit().await?;
    Ok(last.filter(|_| page.has_more))
}

async fn is_first(billing: &Billing, account: AccountId) -> Result<bool, Error> {
    let is_first = sqlx::query_scalar!(
        r#"select invoices_copied_at is null as "is_first!" from stripe_customers where account_id = $1"#,
        account.0
    );
    Ok(is_first.fetch_one(&billing.admin.db).await?)
}

/// The oldest invoices that are not settled here.
async fn unsettled(billing: &Billing, account: AccountId) -> Result<Vec<String>, Error> {
    let ids = sqlx::query_scalar!(
        "select id from stripe_invoices where account_id = $1 and status in ('draft', 'open') order by created_at limit $2",
        account.0,
        PAGE
    );
    Ok(ids.fetch_all(&billing.admin.db).await?)
}
