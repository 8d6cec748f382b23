//! Accounts as they are shown: the list, and one account with what it may do now.

use schema::{AccountId, SubscriptionId, period::instant, subscription::Entitlement};
use serde::Serialize;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    limits::{self, LimitInForce},
    status::AccountStatus,
};
use crate::{
    administration::{
        Administration,
        page::{Listed, Page},
    },
    error::Error,
    subscriptions::{current, paying::Paying},
};

/// An account as it is listed.
#[derive(Clone, Debug, Serialize)]
pub struct Account {
    pub id: AccountId,
    pub name: String,
    pub email: String,
    pub status: AccountStatus,
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
    #[serde(flatten)]
    pub paying: Paying,
    /// Metered calls are answered 402 until the subscription is paid.
    pub payment_required: bool,
    #[serde(with = "time::serde::rfc3339")]
    pub period_start: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub period_end: OffsetDateTime,
    pub limits: Vec<LimitInForce>,
}

/// Lists accounts, oldest first.
pub async fn list(admin: &Administration, page: Page, now: i64) -> Result<Listed<Account>, Error> {
    let rows = sqlx::query_as!(
        Row,
        "select id, name, email, status, created_at from accounts
         where id > $1 order by id limit $2",
        page.after.unwrap_or(Uuid::nil()),
        page.rows()
    )
    .fetch_all(&admin.db)
    .await?;
    let ids: Vec<AccountId> = rows.iter().map(|row| AccountId(row.id)).collect();
    let current = current::subscriptions(&admin.db, &ids).await?;
    let account = |row: Row| {
        let current_plan = schema::CurrentPlan::at(current.get(&AccountId(row.id)), now);
        row.into_account(current_plan.name)
    };
    Ok(page.cut(rows.into_iter().map(account).collect(), |account: &Account| {
        account.id.0
    }))
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
    let current_plan = current::plan(&admin.db, id, now).await?;
    Ok(AccountDetails {
        limits: limits::in_force(&admin.db, &admin.catalogue, id, &current_plan).await?,
        paying: Paying::read(&admin.db, id, &current_plan).await?,
        account: row.into_account(current_plan.name),
        subscription_id: Some(current_plan.subscription).filter(|id| !id.is_nil()),
        payment_required: current_plan.entitlement == Entitlement::PaymentRequired,
        period_start: instant(current_plan.period.start),
        period_end: instant(current_plan.period.end),
    })
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
                "active" => AccountStatus::Active,
                // The table allows only these two. An unknown status counts as suspended, to be safe.
                _ => AccountStatus::Suspended,
            },
            plan,
            created_at: self.created_at,
        }
    }
}
