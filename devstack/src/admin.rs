//! A client of the billing worker's admin API.

use anyhow::{Context, Result};
use schema::{AccountId, KeyId, Scope};
use serde_json::{Value, json};

use crate::http::Http;

#[derive(Clone)]
pub struct Admin {
    http: Http,
    url: String,
    token: String,
}

/// An account with one key, which has every scope.
#[derive(Clone, Debug)]
pub struct Customer {
    pub account_id: AccountId,
    pub plan: String,
    pub key_id: KeyId,
    /// The whole key, which the API shows only once.
    pub key: String,
}

impl Admin {
    /// `url` is that of the billing worker's admin port.
    pub fn new(url: &str, token: &str) -> Self {
        Self {
            http: Http::default(),
            url: format!("{url}/admin"),
            token: token.to_owned(),
        }
    }

    /// Creates an account on a plan, with a key.
    pub async fn customer(&self, name: &str, plan: &str) -> Result<Customer> {
        let account = json!({ "name": name, "email": format!("{name}@example.com"), "plan": plan });
        let account = self.post("/accounts", &account).await.context("creating an account")?;
        let account_id: AccountId = text(&account, "id")?.parse()?;
        let (key_id, key) = self.key(account_id).await?;
        Ok(Customer {
            account_id,
            plan: plan.to_owned(),
            key_id,
            key,
        })
    }

    /// Creates a key that has every scope.
    pub async fn key(&self, account: AccountId) -> Result<(KeyId, String)> {
        let key = self
            .post(&format!("/accounts/{account}/keys"), &json!({ "scopes": Scope::ALL }))
            .await
            .context("creating a key")?;
        Ok((text(&key, "id")?.parse()?, text(&key, "key")?.to_owned()))
    }

    pub async fn change_scopes(&self, key: KeyId, add: &[Scope], remove: &[Scope]) -> Result<()> {
        self.post(&format!("/keys/{key}/scopes"), &json!({ "add": add, "remove": remove }))
            .await
            .map(drop)
            .context("changing the scopes of a key")
    }

    pub async fn revoke(&self, key: KeyId) -> Result<()> {
        self.http
            .delete(&format!("{}/keys/{key}", self.url), &self.token)
            .await?
            .ok()
            .map(drop)
            .context("revoking a key")
    }

    pub async fn assign(&self, account: AccountId, plan: &str) -> Result<()> {
        let url = format!("{}/accounts/{account}/plan", self.url);
        let answer = self.http.put(&url, &self.token, &json!({ "plan": plan })).await?;
        answer.ok().map(drop).context("assigning a plan")
    }

    /// Overrides a limit of one account.
    pub async fn set_limit(&self, account: AccountId, usage_type: &str, limit_units: i64) -> Result<()> {
        let url = format!("{}/accounts/{account}/limits/{usage_type}", self.url);
        let answer = self
            .http
            .put(&url, &self.token, &json!({ "limit_units": limit_units }))
            .await?;
        answer.ok().map(drop).context("setting a limit")
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.http
            .post(&format!("{}{path}", self.url), &self.token, body)
            .await?
            .ok()
    }
}

fn text<'a>(value: &'a Value, field: &str) -> Result<&'a str> {
    value[field]
        .as_str()
        .with_context(|| format!("the answer has no `{field}`"))
}
