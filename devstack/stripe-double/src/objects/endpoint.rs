//! A webhook endpoint and its signing secrets.

use serde_json::{Value, json};

use crate::failure::Failure;
use crate::objects::metadata::Metadata;

#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    pub id: String,
    pub url: String,
    /// Newest first. An older secret is valid until the Unix second beside it.
    pub secrets: Vec<(String, Option<i64>)>,
    pub enabled_events: Vec<String>,
    /// None: the version of the account.
    pub api_version: Option<String>,
    pub description: Option<String>,
    pub metadata: Metadata,
    pub created: i64,
    pub disabled: bool,
    pub deleted: bool,
}

impl Endpoint {
    pub(crate) fn wants(&self, event: &str) -> bool {
        !self.disabled
            && !self.deleted
            && self
                .enabled_events
                .iter()
                .any(|enabled| enabled == "*" || enabled == event)
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.disabled || self.deleted
    }

    /// The secrets to sign with at `now`.
    pub(crate) fn secrets(&self, now: i64) -> impl Iterator<Item = &str> {
        let valid = move |(_, until): &&(String, Option<i64>)| until.is_none_or(|until| now < until);
        self.secrets.iter().filter(valid).map(|(secret, _)| secret.as_str())
    }

    /// The current secrets stay valid until `until`.
    pub(crate) fn roll_secret(&mut self, secret: String, until: i64) {
        for (_, valid_until) in &mut self.secrets {
            *valid_until = Some(valid_until.map_or(until, |at| at.min(until)));
        }
        self.secrets.insert(0, (secret, None));
    }

    pub(crate) fn render(&self) -> Value {
        json!({
            "id": self.id, "object": "webhook_endpoint", "api_version": self.api_version, "application": null,
            "created": self.created, "description": self.description, "enabled_events": self.enabled_events,
            "livemode": false, "metadata": self.metadata, "status": if self.disabled { "disabled" } else { "enabled" },
            "url": self.url,
        })
    }
}

pub(crate) fn check_url(url: &str) -> Result<String, Failure> {
    // Stripe requires https and a public host name in live mode; the double is only for this machine.
    if url
        .parse::<http::Uri>()
        .is_ok_and(|uri| uri.scheme().is_some() && uri.host().is_some())
    {
        Ok(url.to_owned())
    } else {
        Err(Failure::invalid(format!("Invalid URL: {url}"))
            .code("url_invalid")
            .param("url"))
    }
}
