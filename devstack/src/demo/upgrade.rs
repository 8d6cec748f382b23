//! How a Free account of the demo becomes a paying one.

use anyhow::{Context, Result};
use serde_json::json;

use super::call::Driven;
use crate::{http::Http, system::System};

pub(super) struct Upgrade {
    pub checkout_url: String,
    pub key: String,
}

/// Opens a checkout of the Pro plan for the first Free account.
pub(super) async fn open_checkout(system: &System, driven: &Driven) -> Result<Option<Upgrade>> {
    let Some(customer) = driven.customers.iter().find(|customer| customer.plan == "free") else {
        return Ok(None);
    };
    let url = format!("{}/billing/create-checkout-session", system.billing_url);
    let opened = Http::default()
        .post(&url, &customer.key, &json!({ "tier": "pro" }))
        .await?
        .ok()?;
    let checkout_url = opened["checkout_url"].as_str().context("the checkout has no URL")?;
    Ok(Some(Upgrade {
        checkout_url: checkout_url.to_owned(),
        key: customer.key.clone(),
    }))
}
