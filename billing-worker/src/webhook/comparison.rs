//! Every customer's subscriptions compared with Stripe, without an event: finds what no event told.

use schema::AccountId;
use tracing::warn;
use uuid::Uuid;

use crate::{
    error::Error,
    subscriptions::{billing::Billing, refresh},
};

/// What a comparison found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    pub accounts: usize,
    /// Accounts whose subscriptions were not as Stripe has them; now they are.
    pub mended: usize,
    /// Accounts that could not be compared.
    pub failed: usize,
}

/// Compares all, in pages; one that fails keeps nobody else from being compared.
pub async fn run(billing: &Billing) -> Result<Compared, Error> {
    const PAGE: i64 = 500;
    let mut compared = Compared::default();
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
        let Some(last) = page.last() else {
            return Ok(compared);
        };
        after = *last;
        for account in page.into_iter().map(AccountId) {
            compared.accounts += 1;
            match refresh::refresh(billing, account).await {
                Ok(false) => {}
                Ok(true) => {
                    compared.mended += 1;
                    warn!(account.id = %account, "a subscription was not as Stripe has it, and no event had told");
                }
                Err(failure) => {
                    compared.failed += 1;
                    warn!(account.id = %account, "could not compare a subscription with Stripe: {failure}");
                }
            }
        }
    }
}
