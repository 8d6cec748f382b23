//! Links an account to a customer that exists in Stripe already, such as one that a person made in the dashboard. The metadata of
//! the customer are written first, then the row. If the worker dies in between, a repetition completes the link, or Stripe's
//! event does.

use std::collections::HashMap;

use schema::AccountId;
use stripe_core::customer::{RetrieveCustomer, UpdateCustomer};
use tracing::info;

use super::customers;
use crate::{
    error::{Error, violated},
    stripe::{
        Stripe, StripeError, Write, names,
        object::{Customer, is_id},
    },
    subscriptions::{billing::Billing, lease::Lease, listing, refresh},
};

/// What happens to a link that exists already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Earlier {
    /// Nothing is changed.
    Kept,
    /// The account's other customer, or the other account in the customer's metadata, is replaced.
    Replaced,
}

/// Links them, and stores the customer's subscriptions. Repeating it changes nothing.
pub async fn link(billing: &Billing, account: AccountId, customer: &str, earlier: Earlier) -> Result<(), Error> {
    let billing = &billing.of(account);
    let is_known = sqlx::query_scalar!(
        r#"select exists (select from accounts where id = $1) as "is_known!""#,
        account.0
    );
    if !is_known.fetch_one(&billing.admin.db).await? {
        return Err(Error::UnknownAccount(account.to_string()));
    }
    if !is_id("cus_", customer) {
        return Err(Error::UnknownCustomer(customer.to_owned()));
    }
    let lease = billing.lease(account).await?;
    let linked = link_under(billing, &lease, customer, earlier).await;
    lease.release().await;
    linked
}

async fn link_under(billing: &Billing, lease: &Lease, customer: &str, earlier: Earlier) -> Result<(), Error> {
    let (stripe, db, account) = (billing.stripe()?, &billing.admin.db, lease.account());
    let found: Customer = match stripe.read(&RetrieveCustomer::new(customer)).await {
        Ok(found) => found,
        Err(error) if error.is_missing() => return Err(Error::UnknownCustomer(customer.to_owned())),
        Err(error) => return Err(error.into()),
    };
    if found.deleted {
        return Err(Error::UnknownCustomer(customer.to_owned()));
    }
    if let Some(owner) = customers::account_of(db, customer, stripe.is_live()).await?
        && owner != account
    {
        return Err(Error::CustomerTaken(format!(
            "the customer {customer} is linked to the account {owner}: link that account to another customer first"
        )));
    }
    let named = found
        .metadata
        .get(names::META_ACCOUNT)
        .filter(|named| **named != account.to_string());
    if let Some(named) = named.filter(|_| earlier == Earlier::Kept) {
        return Err(Error::CustomerTaken(format!(
            "the metadata {} of the customer {customer} name the account {named}: replace them (`--replace`, \"replace\": true)",
            names::META_ACCOUNT
        )));
    }
    let other = customers::find(db, account, stripe.is_live()).await?;
    let other = other.filter(|other| other != customer);
    if let Some(other) = &other {
        refuse_other(stripe, account, other, earlier).await?;
    }
    lease.renew().await?;
    name(stripe, customer, &account.to_string()).await?;
    if let Some(other) = &other {
        name(stripe, other, "").await?;
    }
    let mut tx = lease.begin().await?;
    let stored = sqlx::query_scalar!(
        r#"insert into stripe_customers as c (account_id, customer_id, livemode) values ($1, $2, $3)
           on conflict (account_id) do update set customer_id = excluded.customer_id, deleted_at = null,
               -- A creation that has not ended does not store its customer.
               creation = c.creation + (c.customer_id is distinct from excluded.customer_id)::int,
               invoices_copied_at = case when c.customer_id = excluded.customer_id then c.invoices_copied_at end,
               upgrade_begun_at = case when c.customer_id = excluded.customer_id then c.upgrade_begun_at end
               where c.livemode = excluded.livemode
           returning old.customer_id is distinct from new.customer_id as "is_new!""#,
        account.0,
        customer,
        stripe.is_live()
    )
    .fetch_optional(&mut *tx)
    .await;
    let is_new = match stored {
        Ok(stored) => stored.ok_or(Error::WrongMode)?,
        Err(error) if violated(&error) == Some("stripe_customers_customer_id_key") => {
            return Err(Error::CustomerTaken(format!(
                "the customer {customer} was linked to another account meanwhile: try again to see which"
            )));
        }
        Err(error) => return Err(error.into()),
    };
    if is_new {
        customers::linked(&mut tx, &billing.admin, account, customer, other.as_deref()).await?;
    }
    tx.commit().await?;
    info!(account.id = %account, customer.id = customer, by = %billing.admin.by, "linked the account to a customer in Stripe");
    refresh::store(billing, lease, customer).await?;
    Ok(())
}

/// The account has another customer. It can be replaced while it does not pay for a plan.
async fn refuse_other(stripe: &Stripe, account: AccountId, other: &str, earlier: Earlier) -> Result<(), Error> {
    if earlier == Earlier::Kept {
        return Err(Error::CustomerTaken(format!(
            "the account {account} is linked to the customer {other}: replace it (`--replace`, \"replace\": true)"
        )));
    }
    let subscriptions = match listing::all(stripe, other).await {
        Ok(subscriptions) => subscriptions,
        Err(error) if error.is_missing() => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    match listing::current(&subscriptions) {
        None => Ok(()),
        Some(running) => Err(Error::CustomerTaken(format!(
            "the account's customer {other} pays for the subscription {}: cancel it in Stripe first",
            running.id
        ))),
    }
}

/// Names the account in the customer's metadata. An empty text removes the name.
async fn name(stripe: &Stripe, customer: &str, account: &str) -> Result<(), StripeError> {
    let metadata = HashMap::from([(names::META_ACCOUNT.to_owned(), account.to_owned())]);
    let update = UpdateCustomer::new(customer).metadata(metadata);
    match stripe.write::<Customer>(&update, Write::Settable).await {
        // A customer that is gone names nobody.
        Err(error) if account.is_empty() && error.is_missing() => Ok(()),
        named => named.map(drop),
    }
}
