//! Accounts: made, found, suspended, resumed.

pub mod customers;
pub mod keys;
pub mod limits;
pub mod plans;

use schema::{AccountId, SubscriptionId, announcement::Announcement, period::instant, standing::Entitlement};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::{Postgres, Transaction};
use time::OffsetDateTime;
use tracing::info;
use uuid::Uuid;

use crate::{
    accounts::limits::LimitInForce,
    administration::{
        Administration, audit,
        page::{Listed, Page},
    },
    error::{Error, violated},
    subscriptions,
};

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewAccount {
    pub name: String,
    pub email: String,
    /// `None`: Free.
    pub plan: Option<String>,
}

/// An account as it is listed.
#[derive(Clone, Debug, Serialize)]
pub struct Account {
    pub id: AccountId,
    pub name: String,
    pub email: String,
    pub status: Status,
    pub plan: String,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

/// An account with what it may do now.
#[derive(Clone, Debug, Serialize)]
pub struct AccountDetails {
    #[serde(flatten)]
    pub account: Account,
    /// `None` on the Free plan.
    pub subscription_id: Option<SubscriptionId>,
    /// Metered calls are answered 402 until it is paid.
    pub payment_required: bool,
    #[serde(with = "time::serde::rfc3339")]
    pub period_start: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub period_end: OffsetDateTime,
    pub limits: Vec<LimitInForce>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Active,
    /// Every metered call answers 402.
    Suspended,
}

/// Makes an account. Of several with one e-mail address, whatever its capitals, one is made.
pub async fn create(admin: &Administration, new: NewAccount, now: i64) -> Result<AccountDetails, Error> {
    let name = checked_name("name", &new.name)?;
    let email = checked_email(&new.email)?;
    if let Some(plan) = &new.plan {
        admin.plan(plan)?;
    }
    let id = AccountId::new();
    let mut tx = admin.db.begin().await?;
    sqlx::query!(
        "insert into accounts (id, name, email) values ($1, $2, $3)",
        id.0,
        name,
        email
    )
    .execute(&mut *tx)
    .await
    .map_err(|error| match violated(&error) {
        Some("accounts_email") => Error::EmailTaken(email.to_owned()),
        _ => Error::Database(error),
    })?;
    let entry = audit::Entry {
        action: "account.create",
        account: Some(id),
        subject: id.to_string(),
        details: json!({ "name": name, "email": email }),
        actor: admin.actor(),
    };
    audit::record(&mut tx, entry).await?;
    if let Some(plan) = &new.plan {
        subscriptions::assign_locked(&mut tx, admin, id, plan, now).await?;
    }
    tx.commit().await?;
    let plan = new.plan.as_deref();
    info!(account.id = %id, plan, by = %admin.by, "made an account");
    admin
        .announcer
        .announce(Announcement::AccountChanged { account_id: id })
        .await;
    show(admin, id, now).await
}

/// Accounts in the order of their making.
pub async fn list(admin: &Administration, page: Page, now: i64) -> Result<Listed<Account>, Error> {
    let rows = sqlx::query_as!(
        Row,
        "select id, name, email, status, created_at from accounts
         where id > $1 order by id limit $2",
        page.after.unwrap_or(Uuid::nil()),
        page.rows()?
    )
    .fetch_all(&admin.db)
    .await?;
    let ids: Vec<AccountId> = rows.iter().map(|row| AccountId(row.id)).collect();
    let current = subscriptions::current(&admin.db, &ids).await?;
    let account = |row: Row| {
        let standing = schema::Standing::at(current.get(&AccountId(row.id)), now);
        row.into_account(standing.plan)
    };
    page.cut(rows.into_iter().map(account).collect(), |account: &Account| {
        account.id.0
    })
}

pub async fn show(admin: &Administration, id: AccountId, now: i64) -> Result<AccountDetails, Error> {
    let row = sqlx::query_as!(
        Row,
        "select id, name, email, status, created_at from accounts where id = $1",
        id.0
    )
    .fetch_optional(&admin.db)
    .await?
    .ok_or_else(|| Error::UnknownAccount(id.to_string()))?;
    let standing = subscriptions::standing(&admin.db, id, now).await?;
    Ok(AccountDetails {
        limits: limits::in_force(&admin.db, &admin.catalogue, id, &standing).await?,
        account: row.into_account(standing.plan),
        subscription_id: Some(standing.subscription).filter(|id| !id.is_nil()),
        payment_required: standing.entitlement == Entitlement::PaymentRequired,
        period_start: instant(standing.period.start),
        period_end: instant(standing.period.end),
    })
}

/// The account that an operator means: by its id or its e-mail address.
pub async fn find(admin: &Administration, id_or_email: &str) -> Result<AccountId, Error> {
    let unknown = || Error::UnknownAccount(id_or_email.to_owned());
    if let Ok(id) = id_or_email.parse::<AccountId>() {
        return Ok(id);
    }
    let email = checked_email(id_or_email).map_err(|_| unknown())?;
    sqlx::query_scalar!("select id from accounts where lower(email) = lower($1)", email)
        .fetch_optional(&admin.db)
        .await?
        .map(AccountId)
        .ok_or_else(unknown)
}

/// Suspends or resumes an account. What it is already, it stays.
pub async fn set_status(
    admin: &Administration,
    id: AccountId,
    status: Status,
    now: i64,
) -> Result<AccountDetails, Error> {
    let mut tx = admin.db.begin().await?;
    let changed = sqlx::query!(
        "update accounts set status = $2, updated_at = now() where id = $1 and status <> $2",
        id.0,
        status.as_str()
    )
    .execute(&mut *tx)
    .await?
    .rows_affected();
    if changed > 0 {
        let entry = audit::Entry {
            action: match status {
                Status::Active => "account.resume",
                Status::Suspended => "account.suspend",
            },
            account: Some(id),
            subject: id.to_string(),
            details: json!({}),
            actor: admin.actor(),
        };
        audit::record(&mut tx, entry).await?;
        tx.commit().await?;
        info!(account.id = %id, status = status.as_str(), by = %admin.by, "changed an account's status");
        admin
            .announcer
            .announce(Announcement::AccountChanged { account_id: id })
            .await;
    }
    show(admin, id, now).await
}

/// Takes the turn of an account's subscription: whoever reads or changes it in Stripe has it from before the first call to the
/// commit. Not the account's row: gateways share that to open pools, and Stripe may take its time.
pub async fn lock_subscription(tx: &mut Transaction<'_, Postgres>, id: AccountId) -> Result<(), Error> {
    sqlx::query!(
        "select pg_advisory_xact_lock(hashtextextended('subscription of ' || $1::text, 0))",
        id.to_string()
    )
    .execute(&mut **tx)
    .await?;
    sqlx::query_scalar!("select id from accounts where id = $1", id.0)
        .fetch_optional(&mut **tx)
        .await?
        .map(|_| ())
        .ok_or_else(|| Error::UnknownAccount(id.to_string()))
}

/// Takes the account's lock, which every writer of its subscription or limits holds until its commit. Rows that refer to the
/// account may be written meanwhile.
pub async fn lock(tx: &mut Transaction<'_, Postgres>, id: AccountId) -> Result<(), Error> {
    sqlx::query_scalar!("select id from accounts where id = $1 for no key update", id.0)
        .fetch_optional(&mut **tx)
        .await?
        .map(|_| ())
        .ok_or_else(|| Error::UnknownAccount(id.to_string()))
}

impl Status {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
        }
    }
}

struct Row {
    id: Uuid,
    name: String,
    email: String,
    status: String,
    created_at: OffsetDateTime,
}

impl Row {
    fn into_account(self, plan: String) -> Account {
        Account {
            id: AccountId(self.id),
            name: self.name,
            email: self.email,
            status: match self.status.as_str() {
                "active" => Status::Active,
                // The table allows nothing else; if it ever does, the careful reading is this one.
                _ => Status::Suspended,
            },
            plan,
            created_at: self.created_at,
        }
    }
}

/// A name as it is stored: something to read, on one line.
pub fn checked_name<'a>(field: &'static str, name: &'a str) -> Result<&'a str, Error> {
    const CHARS_MAX: usize = 200;
    let name = name.trim();
    if name.is_empty() || name.chars().count() > CHARS_MAX || name.chars().any(char::is_control) {
        return Err(Error::BadValue {
            field,
            rule: format!("is 1 to {CHARS_MAX} characters on one line"),
        });
    }
    Ok(name)
}

/// An e-mail address as it is stored. Only a message that arrives proves one; this refuses what cannot be any.
fn checked_email(email: &str) -> Result<&str, Error> {
    // RFC 5321, 4.5.3.1.3: a path has 256 octets, two of them the angle brackets.
    const BYTES_MAX: usize = 254;
    let email = email.trim();
    let plausible = email.len() <= BYTES_MAX
        && !email.chars().any(|c| c.is_whitespace() || c.is_control())
        && email.split_once('@').is_some_and(|(local, domain)| {
            !local.is_empty()
                && !domain.contains('@')
                && domain.contains('.')
                && domain.split('.').all(|label| !label.is_empty())
        });
    match plausible {
        true => Ok(email),
        // At most a line of it: this is shown and may be anything.
        false => Err(Error::BadEmail(email.chars().take(BYTES_MAX).collect())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_an_email_address_is_refused() {
        let longest = format!("{}@example.com", "a".repeat(242));
        let longer = format!("{}@example.com", "a".repeat(243));
        for good in ["a@b.co", " ann.o+x@mail.example.com ", "jörg@exämple.de", &longest] {
            assert_eq!(checked_email(good).unwrap(), good.trim());
        }
        for bad in [
            "", "a", "@b.co", "a@", "a@b", "a@b@c.d", "a b@c.d", "a@b..c", "a@.b", "a@b.", "a\0@b.c", &longer,
        ] {
            assert!(checked_email(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_are_trimmed_and_stay_on_one_line() {
        assert_eq!(checked_name("name", " Ann & Co ").unwrap(), "Ann & Co");
        for bad in ["", "  ", "a\nb", "a\0b", &"x".repeat(201)] {
            assert!(checked_name("name", bad).is_err(), "{bad:?}");
        }
    }
}
