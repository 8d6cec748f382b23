//! Compares every customer's subscriptions, invoices, credit notes, refunds and disputes with Stripe, without an event: finds changes that no event reported.

use schema::AccountId;
use serde::Serialize;
use tracing::{error, warn};
use uuid::Uuid;

use crate::{
    error::Error,
    stripe::StripeError,
    subscriptions::{billing::Billing, invoices, refresh, reversals, unlinked},
};

/// The result of a comparison.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Compared {
    pub accounts: usize,
    /// Accounts whose subscriptions differed from Stripe's, and were updated.
    pub mended: usize,
    /// Accounts that could not be compared.
    pub failed: usize,
    /// Credit notes, refunds and disputes that no event had reported.
    pub reversals: usize,
}

/// Compares all accounts, in pages. A failure for one account does not stop the others. Accounts that another worker uses come
/// last.
pub async fn run(billing: &Billing) -> Result<Compared, Error> {
    const PAGE: i64 = 500;
    let (mut compared, mut busy) = (Compared::default(), Vec::new());
    let mut after = Uuid::nil();
    let livemode = billing.stripe()?.is_live();
    loop {
        let page = sqlx::query_scalar!(
            "select account_id from stripe_customers
             where account_id > $1 and customer_id is not null and deleted_at is null and livemode = $3
             order by account_id limit $2",
            after,
            PAGE,
            livemode
        )
        .fetch_all(&billing.admin.db)
        .await?;
        let Some(last) = page.last() else { break };
        after = *last;
        for account in page.into_iter().map(AccountId) {
            match compare(billing, account).await {
                Err(Error::NoSlot | Error::LeaseLost | Error::Stripe(StripeError::Full)) => busy.push(account),
                refreshed => compared.add(account, refreshed),
            }
        }
    }
    for account in busy {
        compared.add(account, compare(billing, account).await);
    }
    unlinked::look_again(billing).await?;
    compared.reversals = reversals::compare(billing).await?;
    Ok(compared)
}

/// Reads the paid subscriptions whose version is unknown, because they were stored before there were versions. Returns how many of
/// them have changed. One with a price that this service did not make stays without a version.
pub async fn find_versions(billing: &Billing) -> Result<usize, Error> {
    let unknown = sqlx::query_scalar!(
        "select account_id from subscriptions
         where is_current and stripe_subscription_id is not null and version_id is null order by account_id"
    )
    .fetch_all(&billing.admin.db)
    .await?;
    let mut found = 0;
    for account in unknown.into_iter().map(AccountId) {
        match refresh::refresh(billing, account).await {
            Ok(changed) => found += usize::from(changed),
            Err(failure) => {
                warn!(account.id = %account, "could not find the version of a plan, trying again tomorrow: {failure}")
            }
        }
    }
    Ok(found)
}

async fn compare(billing: &Billing, account: AccountId) -> Result<bool, Error> {
    let mended = refresh::refresh(billing, account).await?;
    invoices::compare(billing, account).await?;
    Ok(mended)
}

impl Compared {
    fn add(&mut self, account: AccountId, refreshed: Result<bool, Error>) {
        self.accounts += 1;
        match refreshed {
            Ok(false) => {}
            Ok(true) => {
                self.mended += 1;
                warn!(account.id = %account, "a subscription differed from Stripe's, and no event had reported the change");
            }
            Err(failure) => {
                self.failed += 1;
                match failure.is_permanent() {
                    true => error!(account.id = %account, "cannot compare a subscription with Stripe: {failure}"),
                    false => warn!(account.id = %account, "could not compare a subscription with Stripe: {failure}"),
                }
            }
        }
    }
}
