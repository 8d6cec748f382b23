//! Usage as a service reports it: the body of `POST /v1/usage`, and of each event of a batch.

use std::net::IpAddr;

use axum::http::Method;
use problem::shown;
use schema::{AccountId, Catalogue, EventId, UsageType, api_key};
use serde::{Deserialize, Deserializer, Serialize};
use service::server::request_id::{REQUEST_ID_MAX, is_request_id};

use super::{instant, one, read_cost_units, usage_type};
use crate::{
    http::{
        balance::Balance,
        body::fields,
        client::{Client, TEXT_MAX},
        problem::Problem,
    },
    pricing::cost,
    recording::event::{Facts, Receipt},
};

/// A report of usage. Fields that are missing are taken from the report's own request.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reported {
    usage_type: String,
    #[serde(default = "one", deserialize_with = "read_cost_units")]
    cost_units: i64,
    endpoint: Option<String>,
    method: Option<String>,
    #[serde(default, deserialize_with = "read_status")]
    status: Option<u16>,
    request_id: Option<String>,
    #[serde(default, deserialize_with = "read_address")]
    ip_address: Option<IpAddr>,
    user_agent: Option<String>,
}

/// Its bounds are checked later, after the usage type.
fn read_status<'de, D: Deserializer<'de>>(field: D) -> Result<Option<u16>, D::Error> {
    fields::optional(field, STATUS, |value| u16::try_from(value.as_u64()?).ok())
}

fn read_address<'de, D: Deserializer<'de>>(field: D) -> Result<Option<IpAddr>, D::Error> {
    fields::optional(field, "an IPv4 or IPv6 address", |value| value.as_str()?.parse().ok())
}

/// What a status must be, in messages.
const STATUS: &str = "an HTTP status from 100 to 599";

/// A valid report.
pub(super) struct Usage {
    pub usage_type: UsageType,
    pub cost_units: i64,
    pub status: u16,
    pub facts: Facts,
}

/// The response to a report.
#[derive(Serialize)]
pub(super) struct UsageResponse {
    event_id: String,
    usage_type: &'static str,
    cost_units: i64,
    #[serde(flatten)]
    balance: Balance,
    period_start: String,
    period_end: String,
}

impl Reported {
    /// `path` is the path of the report's own request.
    pub(super) fn read(
        self,
        catalogue: &Catalogue,
        path: &str,
        client: &Client,
        account: AccountId,
        idempotency_key: Option<String>,
        time_ms: i64,
    ) -> Result<Usage, Problem> {
        let usage_type = usage_type(catalogue, &self.usage_type)?;
        let cost_units = cost::bounded("`cost_units`", self.cost_units)?;
        let status = self.status.unwrap_or(200);
        if !(100..=599).contains(&status) {
            return Err(Problem::invalid(format!("`status` must be {STATUS}, got {status}")));
        }
        let method = match self.method {
            None => "POST".to_owned(),
            Some(method) if method.len() <= 32 && Method::from_bytes(method.as_bytes()).is_ok() => {
                method.to_ascii_uppercase()
            }
            Some(other) => {
                let rule = "`method` must be an HTTP method of at most 32 characters";
                return Err(Problem::invalid(format!("{rule}, got \"{}\"", shown(&other))));
            }
        };
        let request_id = match self.request_id {
            None => client.request_id().to_owned(),
            Some(id) if is_request_id(id.as_bytes()) => id,
            Some(other) => {
                return Err(Problem::invalid(format!(
                    "`request_id` must have 1 to {REQUEST_ID_MAX} visible ASCII characters, got \"{}\"",
                    shown(&other)
                )));
            }
        };
        let facts = Facts {
            endpoint: endpoint(self.endpoint, path)?,
            method,
            request_id,
            address: self.ip_address.unwrap_or(client.address),
            user_agent: text("user_agent", self.user_agent, || client.user_agent())?,
            event_id: idempotency_key
                .as_deref()
                .map(|idempotency_key| EventId::of_idempotency_key(account, idempotency_key)),
            idempotency_key,
            time_ms,
        };
        Ok(Usage {
            usage_type,
            cost_units,
            status,
            facts,
        })
    }
}

impl From<&Receipt> for UsageResponse {
    fn from(receipt: &Receipt) -> Self {
        Self {
            event_id: receipt.event_id.to_string(),
            usage_type: receipt.usage_type.name(),
            cost_units: receipt.cost_units,
            balance: Balance::from(&receipt.quota),
            period_start: instant(receipt.quota.period.start),
            period_end: instant(receipt.quota.period.end),
        }
    }
}

fn text(name: &str, text: Option<String>, absent: impl FnOnce() -> String) -> Result<String, Problem> {
    match text {
        None => Ok(absent()),
        Some(text) if text.len() > TEXT_MAX => Err(Problem::invalid(format!(
            "`{name}` must have at most {TEXT_MAX} bytes, got {}",
            text.len()
        ))),
        Some(text) if text.contains(char::is_control) => Err(Problem::invalid(format!(
            "`{name}` must not contain control characters, such as line breaks"
        ))),
        Some(text) => Ok(text),
    }
}

/// The path of the request at the reporting service, or its own name for what was called.
fn endpoint(reported: Option<String>, path: &str) -> Result<String, Problem> {
    match text("endpoint", reported, || path.to_owned())? {
        empty if empty.is_empty() => Err(Problem::invalid(
            "`endpoint` must not be empty: leave it out for the path of this request",
        )),
        with_key if api_key::is_in_url(&with_key) => Err(Problem::invalid("`endpoint` must not contain an API key")),
        endpoint => Ok(endpoint),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{body, problem::Kind};
    use axum::http::HeaderMap;
    use serde_json::json;

    fn read(body: serde_json::Value) -> Result<Usage, Problem> {
        let client = Client::of(&HeaderMap::new(), "192.0.2.1".parse().unwrap(), &[]);
        let reported: Reported = body::parse(body.to_string().as_bytes())?;
        reported.read(&Catalogue::built_in(), "/v1/usage", &client, AccountId::NIL, None, 7)
    }

    #[test]
    fn missing_fields_are_taken_from_the_reports_request() {
        let usage = read(json!({ "usage_type": "export" })).ok().unwrap();
        assert_eq!(
            (usage.usage_type.name(), usage.cost_units, usage.status),
            ("export", 1, 200)
        );
        let facts = usage.facts;
        assert_eq!((facts.endpoint.as_str(), facts.method.as_str()), ("/v1/usage", "POST"));
        assert_eq!(facts.address.to_string(), "192.0.2.1");
        assert_eq!(facts.request_id.len(), 36);
    }

    #[test]
    fn given_fields_are_kept() {
        let usage = read(json!({
            "usage_type": "api_call", "cost_units": 1_000_000, "endpoint": "/x", "method": "get", "status": 404,
            "request_id": "r1", "ip_address": "2001:db8::1", "user_agent": "bot/1",
        }));
        let Usage {
            facts,
            status,
            cost_units,
            ..
        } = usage.ok().unwrap();
        assert_eq!((cost_units, status, facts.method.as_str()), (1_000_000, 404, "GET"));
        assert_eq!((facts.endpoint.as_str(), facts.user_agent.as_str()), ("/x", "bot/1"));
        assert_eq!(
            (facts.request_id.as_str(), facts.address.to_string().as_str()),
            ("r1", "2001:db8::1")
        );
    }

    #[test]
    fn an_endpoint_may_be_any_name() {
        for endpoint in ["/x", "orders.list", "Bücher suchen", "/x?q=1"] {
            let usage = read(json!({ "usage_type": "api_call", "endpoint": endpoint, "user_agent": "" }));
            assert_eq!(usage.ok().unwrap().facts.endpoint, endpoint);
        }
    }

    #[test]
    fn a_wrong_field_is_refused_by_its_name() {
        for (field, value, kind, named) in [
            ("usage_type", json!("api_calls"), Kind::UnknownUsageType, "api_calls"),
            (
                "usage_type",
                json!(1),
                Kind::InvalidRequest,
                "`usage_type` must be a string, got 1",
            ),
            (
                "cost_units",
                json!(0),
                Kind::InvalidRequest,
                "`cost_units` must be an integer from 1 to 1,000,000, got 0",
            ),
            ("cost_units", json!(-1), Kind::InvalidRequest, "got -1"),
            (
                "cost_units",
                json!(1_000_001),
                Kind::InvalidRequest,
                "1,000,000, got 1000001",
            ),
            ("cost_units", json!(1.5), Kind::InvalidRequest, "1,000,000, got 1.5"),
            (
                "cost_units",
                json!("1"),
                Kind::InvalidRequest,
                "`cost_units` must be an integer from 1 to 1,000,000, got \"1\"",
            ),
            ("cost_units", json!(1e300), Kind::InvalidRequest, "1,000,000, got 1e"),
            ("costs", json!(1), Kind::InvalidRequest, "unknown field `costs`"),
            (
                "endpoint",
                json!("e".repeat(TEXT_MAX + 1)),
                Kind::InvalidRequest,
                "`endpoint`",
            ),
            (
                "user_agent",
                json!("e".repeat(TEXT_MAX + 1)),
                Kind::InvalidRequest,
                "`user_agent`",
            ),
            (
                "endpoint",
                json!(""),
                Kind::InvalidRequest,
                "`endpoint` must not be empty",
            ),
            (
                "endpoint",
                json!("/a\0b"),
                Kind::InvalidRequest,
                "`endpoint` must not contain control",
            ),
            (
                "endpoint",
                json!(format!("/{}", api_key::ApiKey::generate().reveal())),
                Kind::InvalidRequest,
                "`endpoint` must not contain an API key",
            ),
            (
                "user_agent",
                json!("bot\nx"),
                Kind::InvalidRequest,
                "`user_agent` must not contain control",
            ),
            ("user_agent", json!("bot\u{85}"), Kind::InvalidRequest, "`user_agent`"),
            ("method", json!("G T"), Kind::InvalidRequest, "`method`"),
            ("status", json!(99), Kind::InvalidRequest, "`status`"),
            (
                "status",
                json!(70_000),
                Kind::InvalidRequest,
                "from 100 to 599, got 70000",
            ),
            ("request_id", json!("a b"), Kind::InvalidRequest, "`request_id`"),
            (
                "ip_address",
                json!("localhost"),
                Kind::InvalidRequest,
                "`ip_address` must be an IPv4 or IPv6 address, got \"localhost\"",
            ),
        ] {
            let mut body = json!({ "usage_type": "api_call" });
            body[field] = value.clone();
            let Err(problem) = read(body) else {
                panic!("{field} {value} was accepted")
            };
            let detail = problem.detail();
            assert_eq!(problem.kind, kind, "{detail}");
            assert!(detail.contains(named), "{field}: {detail}");
        }
        assert!(read(json!({})).is_err_and(|problem| problem.kind == Kind::InvalidRequest));
    }
}
