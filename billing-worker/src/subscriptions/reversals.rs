//! Credit notes, refunds and disputes: what takes an invoice back after it is final. People make them in Stripe's dashboard, and
//! banks make disputes. This service makes only credit notes for corrections; these are copied too, and are no findings. Rows in PostgreSQL are copies, written under the account's lease. Each
//! change is in the audit log and a finding.
//!
//! | what | file |
//! |---|---|
//! | one of them as a row | [`reversal`] |
//! | reading them in Stripe | [`fetch`] |
//! | writing the rows; a lost dispute | [`store`] |
//! | what an operator must look at | [`found`] |
//! | what no event reported | [`compare`] |

mod compare;
mod fetch;
mod found;
mod reversal;
mod store;

use schema::AccountId;

use super::{
    billing::{Billing, LostDispute},
    invoices::READ_MAX,
    lease::Lease,
};
use crate::{
    accounts::{
        customers,
        status::{self, AccountStatus},
    },
    error::Error,
};

pub use self::{
    compare::compare,
    found::found,
    reversal::{Named, named},
};

/// The customer of the first one. The event of a dispute does not name it.
pub async fn customer(billing: &Billing, named: &[Named]) -> Result<Option<String>, Error> {
    let Some(first) = named.first() else { return Ok(None) };
    let read = fetch::fetch(billing.stripe()?, first).await?;
    Ok(read.and_then(|read| read.customer))
}

/// Copies them, if they are the account's. Returns the invoices that they are for.
pub async fn copy(billing: &Billing, account: AccountId, named: &[Named]) -> Result<Vec<String>, Error> {
    let billing = &billing.of(account);
    let mut invoices = Vec::new();
    for named in named.chunks(READ_MAX) {
        let lease = billing.lease(account).await?;
        let copied = copy_under(billing, &lease, named).await;
        lease.release().await;
        invoices.extend(copied?);
    }
    Ok(invoices)
}

async fn copy_under(billing: &Billing, lease: &Lease, named: &[Named]) -> Result<Vec<String>, Error> {
    let (stripe, admin, account) = (billing.stripe()?, &billing.admin, lease.account());
    let mut read = Vec::new();
    for one in named {
        let Some(found) = fetch::fetch(stripe, one).await? else {
            continue;
        };
        let owner = match &found.customer {
            Some(customer) => customers::account_of(&admin.db, customer, stripe.is_live()).await?,
            None => None,
        };
        if owner == Some(account) {
            read.push(found);
        }
    }
    let mut tx = lease.begin().await?;
    let mut suspends = false;
    for found in &read {
        let is_lost = store::store(&mut tx, billing, account, found).await?;
        suspends |= is_lost && billing.settings.lost_dispute == LostDispute::Suspend;
    }
    let is_suspended = suspends && status::set(&mut tx, admin, account, AccountStatus::Suspended).await?;
    tx.commit().await?;
    if is_suspended {
        status::announce(admin, account, AccountStatus::Suspended).await;
    }
    Ok(read.into_iter().filter_map(|found| found.invoice).collect())
}
