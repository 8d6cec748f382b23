//! What a client is told when its request is not served: RFC 9457 `application/problem+json`, with the seeds' words beside it.
//! No problem echoes a key.

use std::{borrow::Cow, time::Duration};

use axum::http::{
    HeaderValue, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
};
use axum::response::{IntoResponse, Response};
use rand::RngExt;
use schema::{Burst, UsageType, api_key, period};
use serde::Serialize;
use time::format_description::well_known::Rfc3339;

use crate::{
    accounts::burst::BurstView,
    http::{balance::Balance, rate_limit},
    pricing::{cost::CostError, routes::PathError},
    quota::{QuotaView, Refusal},
};

mod kind;

pub use kind::Kind;

/// Becomes a response in two steps: [`IntoResponse`] sets the status and headers and leaves the problem in the response's
/// extensions; [`crate::http::edge`] writes the body, since it knows the request's id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub kind: Kind,
    detail: Cow<'static, str>,
    limit: Option<Box<Limit>>,
    burst: Option<Burst>,
    retry_after_s: Option<i64>,
}

/// The limit that was reached, as of `now_s`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Limit {
    usage_type: UsageType,
    view: QuotaView,
    now_s: i64,
}

/// A problem among the results of a batch.
#[derive(Serialize)]
pub struct Item<'a> {
    status: u16,
    error: &'static str,
    message: &'a str,
    #[serde(flatten)]
    limit: Option<LimitBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upgrade_url: Option<&'a str>,
}

#[derive(Serialize)]
struct Body<'a> {
    r#type: &'static str,
    title: &'static str,
    detail: &'a str,
    instance: &'a str,
    #[serde(flatten)]
    item: Item<'a>,
}

#[derive(Serialize)]
struct LimitBody {
    usage_type: &'static str,
    #[serde(flatten)]
    balance: Balance,
}

impl Problem {
    pub fn new(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Self {
        let detail = match detail.into() {
            // A detail can quote what was sent, a value of a body for one.
            detail if detail.contains(api_key::PREFIX) => "the request contains an API key in a wrong place".into(),
            detail => detail,
        };
        Self {
            kind,
            detail,
            limit: None,
            burst: None,
            // Spread, so that those who wait do not come back all at once.
            retry_after_s: kind.is_passing().then(|| rand::rng().random_range(1..=5)),
        }
    }

    pub fn invalid(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::InvalidRequest, detail)
    }

    /// What `cost` units of `usage_type` were refused for.
    pub fn refused(refusal: Refusal, usage_type: UsageType, cost: i64, now_s: i64) -> Self {
        match refusal {
            Refusal::LimitReached(view) => {
                let end = period::instant(view.period.end).format(&Rfc3339).unwrap_or_default();
                let detail = format!(
                    "monthly limit for `{usage_type}` reached: {} of {} used; the request costs {cost}; resets at {end}",
                    view.current_usage, view.limit
                );
                Self {
                    limit: Some(Box::new(Limit {
                        usage_type,
                        view,
                        now_s,
                    })),
                    retry_after_s: Some(rate_limit::retry_after_s(&view, now_s)),
                    ..Self::new(Kind::RateLimitExceeded, detail)
                }
            }
            Refusal::PaymentRequired { plan } => Self::new(
                Kind::SubscriptionRequired,
                format!("the subscription to the plan `{plan}` must be paid before further requests"),
            ),
            Refusal::Unavailable => Self::new(
                Kind::QuotaUnavailable,
                "the quota cannot be checked now; nothing was counted: try again later",
            ),
        }
    }

    /// A request that came before its key's bucket had one again.
    pub fn too_fast(burst: Burst, wait: Duration) -> Self {
        let detail = format!(
            "each key may send {} requests at once and {} a second; nothing was counted: try again later",
            burst.size, burst.per_second
        );
        Self {
            burst: Some(burst),
            retry_after_s: Some(rate_limit::whole_seconds(wait)),
            ..Self::new(Kind::BurstLimitExceeded, detail)
        }
    }

    pub fn status(&self) -> StatusCode {
        self.kind.status()
    }

    /// The problem as one result of a batch.
    pub fn item<'a>(&'a self, upgrade_url: &'a str) -> Item<'a> {
        let offers_upgrade = matches!(self.kind, Kind::RateLimitExceeded | Kind::SubscriptionRequired);
        Item {
            status: self.status().as_u16(),
            error: self.kind.error(),
            message: &self.detail,
            limit: self.limit.as_ref().map(|limit| LimitBody {
                usage_type: limit.usage_type.name(),
                balance: Balance::from(&limit.view),
            }),
            upgrade_url: offers_upgrade.then_some(upgrade_url),
        }
    }

    /// The body of the response.
    pub fn body(&self, request_id: &str, upgrade_url: &str) -> Vec<u8> {
        let body = Body {
            r#type: self.kind.urn(),
            title: self.kind.title(),
            detail: &self.detail,
            instance: request_id,
            item: self.item(upgrade_url),
        };
        serde_json::to_vec(&body).expect("strings and numbers are always JSON")
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after_s {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        match self.kind {
            Kind::MissingKey | Kind::KeyInUrl => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Kind::InvalidKey => {
                headers.insert(
                    WWW_AUTHENTICATE,
                    HeaderValue::from_static("Bearer error=\"invalid_token\""),
                );
            }
            _ => {}
        }
        if let Some(limit) = &self.limit {
            rate_limit::insert(headers, &[(limit.usage_type, limit.view)], limit.now_s);
        }
        if let Some(burst) = self.burst {
            rate_limit::insert_burst(headers, Some(BurstView { burst, remaining: 0 }));
        }
        response.extensions_mut().insert(self);
        response
    }
}

impl From<CostError> for Problem {
    fn from(error: CostError) -> Self {
        Self::invalid(error.0)
    }
}

impl From<PathError> for Problem {
    fn from(error: PathError) -> Self {
        Self::invalid(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use schema::{Catalogue, Mode, Period};
    use serde_json::json;

    fn limit_reached() -> Problem {
        let view = QuotaView {
            mode: Mode::Limited,
            limit: 100,
            remaining: 2,
            current_usage: 98,
            period: Period {
                start: 1_793_491_200,
                end: 1_796_083_200,
            },
        };
        let api_call = Catalogue::built_in().usage_type("api_call").unwrap();
        Problem::refused(Refusal::LimitReached(view), api_call, 3, 1_796_083_000)
    }

    fn body(problem: &Problem) -> serde_json::Value {
        serde_json::from_slice(&problem.body("request-1", "/billing/plans")).unwrap()
    }

    #[test]
    fn a_reached_limit_says_what_is_left_and_what_to_do() {
        let message =
            "monthly limit for `api_call` reached: 98 of 100 used; the request costs 3; resets at 2026-12-01T00:00:00Z";
        assert_eq!(
            body(&limit_reached()),
            json!({
                "type": "urn:trendit:problem:rate_limit_exceeded",
                "title": "The limit of the plan is reached",
                "status": 429,
                "detail": message,
                "instance": "request-1",
                "error": "rate_limit_exceeded",
                "message": message,
                "usage_type": "api_call",
                "current_usage": 98,
                "limit": 100,
                "remaining": 2,
                "upgrade_url": "/billing/plans",
            })
        );
        let response = limit_reached().into_response();
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()["retry-after"], "200");
        assert_eq!(response.headers()["ratelimit"], "\"api_call\";r=2;t=200");
        assert_eq!(response.headers()["content-type"], "application/problem+json");
    }

    #[test]
    fn a_request_that_comes_too_fast_is_told_when_to_come_back() {
        let some = |n| std::num::NonZeroU32::new(n).unwrap();
        let burst = Burst {
            per_second: some(20),
            size: some(50),
        };
        let problem = Problem::too_fast(burst, Duration::from_millis(1_001));
        let told = body(&problem);
        assert_eq!(
            (&told["status"], &told["error"]),
            (&json!(429), &json!("burst_limit_exceeded"))
        );
        let response = problem.into_response();
        assert_eq!(response.headers()["retry-after"], "2");
        assert_eq!(response.headers()["ratelimit-policy"], "\"burst\";q=50;w=3");
        assert_eq!(response.headers()["ratelimit"], "\"burst\";r=0;t=3");
    }

    #[test]
    fn every_problem_that_passes_says_when_to_come_back() {
        for kind in Kind::ALL {
            let response = Problem::new(*kind, "why").into_response();
            let retry_after = response
                .headers()
                .get("retry-after")
                .map(|value| value.to_str().unwrap());
            match response.status().as_u16() {
                409 | 503 => assert!((1..=5).contains(&retry_after.unwrap().parse().unwrap())),
                _ => assert_eq!(retry_after, None, "{kind:?}"),
            }
        }
    }

    #[test]
    fn a_problem_never_echoes_a_key() {
        let key = api_key::ApiKey::generate();
        let problem = Problem::invalid(format!("invalid type: string \"{}\"", key.reveal()));
        assert!(!body(&problem).to_string().contains(api_key::PREFIX));
        let unpaid = Refusal::PaymentRequired { plan: "pro".into() };
        let problem = Problem::refused(unpaid, Catalogue::built_in().usage_types()[0], 1, 0);
        assert_eq!(body(&problem)["upgrade_url"], "/billing/plans");
        assert_eq!(
            Problem::new(Kind::MissingKey, "").into_response().headers()["www-authenticate"],
            "Bearer"
        );
    }
}
