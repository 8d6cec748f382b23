//! The customer of an account in Stripe; there is only one. Its creation is recorded before the call, with an idempotency key of
//! its own, so neither concurrent calls nor a crash create a second one.

use std::collections::HashMap;

use schema::{AccountId, period::instant};
use serde_json::json;
use sqlx::{PgExecutor, Postgres, Transaction};
use stripe_core::customer::{CreateCustomer, ListCustomer, RetrieveCustomer};
use tracing::info;

use crate::{
    accounts,
    administration::{Administration, audit},
    error::Error,
    findings::{finding::FindingKind, repository as findings},
    stripe::{
        Stripe, StripeError, Write, names,
        object::{Customer, List},
    },
    subscriptions::billing::Billing,
};

/// Stripe forgets an idempotency key after 24 hours. After this time the customer is searched for before it is created again.
const KEY_TRUSTED_S: i64 = 23 * 3_600;

/// Returns the account's customer in this mode, if there is one that Stripe has not deleted.
pub async fn find(db: impl PgExecutor<'_>, account: AccountId, livemode: bool) -> Result<Option<String>, Error> {
    let customer = sqlx::query_scalar!(
        "select customer_id from stripe_customers where account_id = $1 and livemode = $2 and deleted_at is null",
        account.0,
        livemode
    )
    .fetch_optional(db)
    .await?;
    Ok(customer.flatten())
}

/// Returns the account of a customer.
pub async fn account_of(db: impl PgExecutor<'_>, customer: &str, livemode: bool) -> Result<Option<AccountId>, Error> {
    let account = sqlx::query_scalar!(
        "select account_id from stripe_customers where customer_id = $1 and livemode = $2",
        customer,
        livemode
    )
    .fetch_optional(db)
    .await?;
    Ok(account.map(AccountId))
}

/// Returns the account's customer, and creates it if there is none.
pub async fn ensure(billing: &Billing, account: AccountId) -> Result<String, Error> {
    let stripe = billing.stripe()?;
    let now = billing.clock.now_s();
    let mut tx = billing.admin.db.begin().await?;
    accounts::lock(&mut tx, account).await?;
    let row = sqlx::query!(
        "insert into stripe_customers as c (account_id, livemode, requested_at) values ($1, $2, $3)
         on conflict (account_id) do update set
             creation = c.creation + (c.deleted_at is not null)::int,
             customer_id = case when c.deleted_at is null then c.customer_id end,
             requested_at = case when c.deleted_at is null then c.requested_at else excluded.requested_at end,
             deleted_at = null
         returning customer_id, livemode, creation, requested_at",
        account.0,
        stripe.is_live(),
        instant(now)
    )
    .fetch_one(&mut *tx)
    .await?;
    let owner = sqlx::query!("select name, email from accounts where id = $1", account.0)
        .fetch_one(&mut *tx)
        .await?;
    tx.commit().await?;
    if row.livemode != stripe.is_live() {
        return Err(Error::WrongMode);
    }
    if let Some(customer) = row.customer_id {
        return Ok(customer);
    }

    let forgotten = now - row.requested_at.unix_timestamp() > KEY_TRUSTED_S;
    let known = match forgotten {
        true => search(stripe, account, &owner.email).await?,
        false => None,
    };
    let (customer, creation) = match known {
        Some(customer) => (customer, row.creation),
        None => make(billing, account, row.creation, &owner.name, &owner.email).await?,
    };
    sqlx::query!(
        "update stripe_customers set customer_id = $2 where account_id = $1 and creation = $3 and customer_id is null",
        account.0,
        customer,
        creation
    )
    .execute(&billing.admin.db)
    .await?;
    info!(account.id = %account, customer.id = customer, "linked the account to its Stripe customer");
    Ok(customer)
}

/// Adopts a customer that Stripe reports and that is unknown here, if its metadata names an account without a customer.
pub async fn adopt(billing: &Billing, customer: &str) -> Result<Option<AccountId>, Error> {
    let stripe = billing.stripe()?;
    let found: Customer = match stripe.read(&RetrieveCustomer::new(customer)).await {
        Ok(found) => found,
        Err(error) if error.is_missing() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let named = found
        .metadata
        .get(names::META_ACCOUNT)
        .and_then(|id| id.parse::<AccountId>().ok());
    let Some(account) = named.filter(|_| !found.deleted) else {
        return Ok(None);
    };
    let mut tx = billing.admin.db.begin().await?;
    // The row decides: if the account has another customer, this one is not adopted.
    let adopted = sqlx::query_scalar!(
        "insert into stripe_customers as c (account_id, customer_id, livemode)
         select id, $2, $3 from accounts where id = $1
         on conflict (account_id) do update set customer_id = excluded.customer_id
             where c.customer_id is null and c.deleted_at is null and c.livemode = excluded.livemode
         returning account_id",
        account.0,
        customer,
        found.livemode
    )
    .fetch_optional(&mut *tx)
    .await?
    .map(AccountId);
    if let Some(account) = adopted {
        linked(&mut tx, &billing.admin, account, customer, None).await?;
    }
    tx.commit().await?;
    Ok(adopted)
}

/// Records that an account was linked to a customer that exists already. The customer is an unlinked payer no longer.
pub(super) async fn linked(
    tx: &mut Transaction<'_, Postgres>,
    admin: &Administration,
    account: AccountId,
    customer: &str,
    replaced: Option<&str>,
) -> Result<(), Error> {
    findings::resolve(tx, FindingKind::UnlinkedPayer, customer).await?;
    let entry = audit::Entry {
        action: "account.link_stripe",
        account: Some(account),
        subject: customer.to_owned(),
        details: json!({ "replaced": replaced }),
        actor: admin.actor(),
    };
    audit::record(tx, entry).await
}

/// Records that Stripe deleted the customer.
pub async fn deleted(db: impl PgExecutor<'_>, customer: &str, now: i64) -> Result<(), Error> {
    sqlx::query!(
        "update stripe_customers set deleted_at = coalesce(deleted_at, $2) where customer_id = $1",
        customer,
        instant(now)
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Creates the customer; returns it and the number of its creation. Stripe repeats a 5xx response for the same key. The
/// customer may exist in spite of such a response. So this searches for it first, and then tries the next key once.
async fn make(
    billing: &Billing,
    account: AccountId,
    first: i32,
    name: &str,
    email: &str,
) -> Result<(String, i32), Error> {
    let stripe = billing.stripe()?;
    let mut creation = first;
    loop {
        let failure = match create(stripe, account, creation, name, email).await {
            Ok(customer) => return Ok((customer, creation)),
            Err(failure @ StripeError::Failed(_)) => failure,
            Err(error) => return Err(error.into()),
        };
        if let Some(customer) = search(stripe, account, email).await? {
            return Ok((customer, creation));
        }
        next_creation(billing, account, creation).await?;
        creation += 1;
        if creation > first + 1 {
            return Err(failure.into());
        }
    }
}

async fn create(
    stripe: &Stripe,
    account: AccountId,
    creation: i32,
    name: &str,
    email: &str,
) -> Result<String, StripeError> {
    let metadata = HashMap::from([(names::META_ACCOUNT.to_owned(), account.to_string())]);
    let create = CreateCustomer::new().name(name).email(email).metadata(metadata);
    let key = format!("customer-{account}-{creation}");
    Ok(stripe.write::<Customer>(&create, Write::Keyed(&key)).await?.id)
}

/// Lets the next attempt use another key.
async fn next_creation(billing: &Billing, account: AccountId, creation: i32) -> Result<(), Error> {
    sqlx::query!(
        "update stripe_customers set creation = creation + 1, requested_at = $3
         where account_id = $1 and creation = $2 and customer_id is null",
        account.0,
        creation,
        instant(billing.clock.now_s())
    )
    .execute(&billing.admin.db)
    .await?;
    Ok(())
}

async fn search(stripe: &Stripe, account: AccountId, email: &str) -> Result<Option<String>, Error> {
    let page: List<Customer> = stripe.read(&ListCustomer::new().email(email).limit(100)).await?;
    let ours = |customer: &Customer| customer.metadata.get(names::META_ACCOUNT) == Some(&account.to_string());
    Ok(page.data.into_iter().find(ours).map(|customer| customer.id))
}
