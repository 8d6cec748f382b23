//! Problems of the gateway: those of the catalogue in the crate `problem`, with the headers and members of limits.

use std::{borrow::Cow, time::Duration};

use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};
use problem::{Area, Members};
use schema::{Burst, UsageType, period, subscription::Unbilled};
use serde::Serialize;
use time::format_description::well_known::Rfc3339;

pub use problem::Kind;

use crate::{
    accounts::burst::BurstView,
    http::{balance::Balance, rate_limit},
    pricing::{cost::CostError, routes::PathError},
    quota::{CapView, QuotaView, Refusal},
};

/// Converted to a response, it is a [`problem::Problem`] in the extensions. [`crate::http::edge`] adds the address for an upgrade,
/// and the server writes the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub kind: Kind,
    problem: problem::Problem,
    limit: Option<Box<Limit>>,
    burst: Option<Burst>,
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
pub struct ItemProblem<'a> {
    status: u16,
    error: &'static str,
    message: &'a str,
    #[serde(flatten)]
    members: Members,
}

impl From<problem::Problem> for Problem {
    fn from(problem: problem::Problem) -> Self {
        Self {
            kind: problem.kind,
            problem,
            limit: None,
            burst: None,
        }
    }
}

impl Problem {
    pub fn new(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Self {
        problem::Problem::new(kind, detail).into()
    }

    /// A problem with the catalogue's own sentence.
    pub fn of(kind: Kind) -> Self {
        problem::Problem::of(kind).into()
    }

    pub fn invalid(detail: impl Into<Cow<'static, str>>) -> Self {
        problem::Problem::invalid(detail).into()
    }

    /// Why `cost` units of `usage_type` were refused.
    pub fn refused(refusal: Refusal, usage_type: UsageType, cost: i64, now_s: i64) -> Self {
        match refusal {
            Refusal::LimitReached(view) => {
                let end = period::instant(view.period.end).format(&Rfc3339).unwrap_or_default();
                let (used, limit) = (view.current_usage, view.limit);
                let used = match used > limit {
                    // The limit was lowered.
                    true => format!("{used} used, the limit is {limit}"),
                    false => format!("{used} of {limit} used"),
                };
                let payer = view.unbilled.map_or("", needs_payer);
                let detail = format!(
                    "monthly limit for `{usage_type}` reached: {used}; the request costs {cost}; resets at {end}{payer}"
                );
                let balance = Balance::from(&view);
                let problem = problem::Problem::new(Kind::RateLimitExceeded, detail)
                    .retry_after(rate_limit::retry_after_s(&view, now_s))
                    .with(Members {
                        usage_type: Some(usage_type.name()),
                        current_usage: Some(balance.current_usage),
                        limit: Some(balance.limit),
                        remaining: Some(balance.remaining),
                        ..Members::default()
                    });
                Self::limited(problem, usage_type, view, now_s)
            }
            Refusal::SpendCapReached(CapView { quota: view, spent }) => {
                let end = period::instant(view.period.end).format(&Rfc3339).unwrap_or_default();
                let detail = format!(
                    "spend cap reached: usage of this period costs {} of {} cents, and the request costs {cost} more of \
                     `{usage_type}`; resets at {end}; to spend more, raise or remove the cap (/billing/spend-cap)",
                    spent.used_cents, spent.cap_cents
                );
                let problem = problem::Problem::new(Kind::SpendCapReached, detail)
                    .retry_after(rate_limit::retry_after_s(&view, now_s))
                    .with(Members {
                        usage_type: Some(usage_type.name()),
                        cap_cents: Some(spent.cap_cents),
                        used_cents: Some(spent.used_cents),
                        resets_at: Some(end),
                        ..Members::default()
                    });
                Self::limited(problem, usage_type, view, now_s)
            }
            Refusal::PaymentRequired { plan, invoice_url } => {
                let detail = format!("the subscription to the plan `{plan}` must be paid before further requests");
                let problem = problem::Problem::new(Kind::SubscriptionRequired, detail);
                problem
                    .with(Members {
                        hosted_invoice_url: invoice_url,
                        ..Members::default()
                    })
                    .into()
            }
            Refusal::Suspended => Self::new(
                Kind::AccountSuspended,
                "the account is suspended: ask the operator of this API; a payment does not end a suspension",
            ),
            Refusal::Unavailable => Self::new(
                Kind::QuotaUnavailable,
                "the quota cannot be checked now; nothing was counted: try again later",
            ),
        }
    }

    /// A problem with the headers of a limit.
    fn limited(problem: problem::Problem, usage_type: UsageType, view: QuotaView, now_s: i64) -> Self {
        let limit = Limit {
            usage_type,
            view,
            now_s,
        };
        Self {
            limit: Some(Box::new(limit)),
            ..problem.into()
        }
    }

    /// The problem of a request whose key has an empty bucket.
    pub fn too_fast(burst: Burst, wait: Duration) -> Self {
        let detail = format!(
            "each key may send {} requests at once and {} a second; nothing was counted: try again later",
            burst.size, burst.per_second
        );
        let problem = problem::Problem::new(Kind::BurstLimitExceeded, detail);
        Self {
            burst: Some(burst),
            ..problem.retry_after(rate_limit::whole_seconds(wait)).into()
        }
    }

    pub fn status(&self) -> StatusCode {
        self.kind.status()
    }

    pub fn detail(&self) -> &str {
        self.problem.detail()
    }

    /// The problem as one result of a batch.
    pub fn item<'a>(&'a self, upgrade_url: &str) -> ItemProblem<'a> {
        let mut members = self.problem.members().cloned().unwrap_or_default();
        if offers_upgrade(self.kind) {
            members.upgrade_url = Some(upgrade_url.to_owned());
        }
        ItemProblem {
            status: self.status().as_u16(),
            error: self.kind.error(),
            message: self.problem.detail(),
            members,
        }
    }
}

/// What to do about units that the plan bills and that nobody would pay for.
fn needs_payer(unbilled: Unbilled) -> &'static str {
    match unbilled {
        Unbilled::Trial => {
            "; the plan bills further units, and a trial bills nothing: they are available after the trial, once the subscription \
             is paid"
        }
        Unbilled::NoSubscription => {
            "; the plan bills further units, and the account has no subscription to bill: subscribe with POST \
             /billing/create-checkout-session, or ask the operator"
        }
    }
}

/// Whether a payment or another plan would solve the problem.
pub fn offers_upgrade(kind: Kind) -> bool {
    matches!(kind, Kind::RateLimitExceeded | Kind::SubscriptionRequired)
}

/// The problem types that the gateway uses.
pub fn of_the_gateway() -> impl Iterator<Item = Kind> {
    let is_ours = |kind: &Kind| matches!(kind.area(), Area::Every | Area::Gateway);
    Kind::ALL.iter().copied().filter(is_ours)
}

/// Whether the request was admitted before it failed.
pub fn was_admitted(kind: Kind) -> bool {
    use Kind::{Internal, NotRecorded, OutcomeUnknown, UpstreamInvalid, UpstreamTimeout, UpstreamUnreachable};
    matches!(
        kind,
        UpstreamUnreachable | UpstreamInvalid | UpstreamTimeout | NotRecorded | OutcomeUnknown | Internal
    )
}

/// Whether only the body is wrong, so that the same body always gets the same response.
pub fn is_of_the_body(kind: Kind) -> bool {
    matches!(kind, Kind::InvalidRequest | Kind::UnknownUsageType)
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.problem.into_response();
        let headers = response.headers_mut();
        if let Some(limit) = &self.limit {
            rate_limit::insert(headers, &[(limit.usage_type, limit.view)], limit.now_s);
        }
        if let Some(burst) = self.burst {
            rate_limit::insert_burst(headers, Some(BurstView { burst, remaining: 0 }));
        }
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
    use crate::quota::Spent;
    use schema::{Catalogue, Mode, Period, api_key};
    use serde_json::json;

    fn limit_reached() -> Problem {
        limit_reached_by(98, 100)
    }

    fn limit_reached_by(current_usage: i64, limit: i64) -> Problem {
        let api_call = Catalogue::built_in().usage_type("api_call").unwrap();
        let view = view_of(current_usage, limit);
        Problem::refused(Refusal::LimitReached(view), api_call, 3, 1_796_083_000)
    }

    fn view_of(current_usage: i64, limit: i64) -> QuotaView {
        QuotaView {
            mode: Mode::Limited,
            limit,
            remaining: (limit - current_usage).max(0),
            current_usage,
            period: Period {
                start: 1_793_491_200,
                end: 1_796_083_200,
            },
            unbilled: None,
        }
    }

    fn body(problem: &Problem) -> serde_json::Value {
        let mut problem = problem.problem.clone();
        if offers_upgrade(problem.kind) {
            problem.offer_upgrade("/billing/plans");
        }
        serde_json::from_slice(&problem.body(problem::TYPE_BASE, "request-1")).unwrap()
    }

    #[test]
    fn a_reached_limit_says_what_is_left_and_what_to_do() {
        let message =
            "monthly limit for `api_call` reached: 98 of 100 used; the request costs 3; resets at 2026-12-01T00:00:00Z";
        assert_eq!(
            body(&limit_reached()),
            json!({
                "type": "/docs/api.md#rate_limit_exceeded",
                "title": "Monthly limit reached",
                "status": 429,
                "detail": message,
                "instance": "/requests/request-1",
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
    fn a_reached_spend_cap_says_what_was_spent_and_when_it_resets() {
        let export = Catalogue::built_in().usage_type("export").unwrap();
        let quota = QuotaView {
            mode: Mode::Overage,
            remaining: 0,
            ..view_of(0, 100)
        };
        let spent = Spent {
            cap_cents: 5_000,
            used_cents: 4_999,
        };
        let refusal = Refusal::SpendCapReached(CapView { quota, spent });
        let problem = Problem::refused(refusal, export, 3, 1_796_083_000);
        let document = body(&problem);
        assert_eq!(document["error"], "spend_cap_reached");
        let numbers = ["cap_cents", "used_cents"].map(|member| document[member].as_i64());
        assert_eq!(numbers, [Some(5_000), Some(4_999)]);
        assert_eq!(document["resets_at"], "2026-12-01T00:00:00Z");
        assert!(problem.detail().contains("costs 4999 of 5000 cents"));
        let response = problem.into_response();
        assert_eq!(response.headers()["retry-after"], "200");
        assert_eq!(response.headers()["ratelimit"], "\"export\";r=0;t=200");
    }

    #[test]
    fn a_limit_without_a_payer_says_what_gives_more() {
        let api_call = Catalogue::built_in().usage_type("api_call").unwrap();
        for (unbilled, says) in [
            (None, "resets at 2026-12-01T00:00:00Z"),
            (
                Some(Unbilled::Trial),
                "available after the trial, once the subscription is paid",
            ),
            (
                Some(Unbilled::NoSubscription),
                "subscribe with POST /billing/create-checkout-session, or ask the operator",
            ),
        ] {
            let view = QuotaView {
                unbilled,
                ..view_of(0, 0)
            };
            let problem = Problem::refused(Refusal::LimitReached(view), api_call, 3, 1_796_083_000);
            assert!(problem.detail().ends_with(says), "{}", problem.detail());
            assert_eq!(problem.status(), 429);
        }
    }

    #[test]
    fn a_lowered_limit_is_told_beside_the_usage() {
        for (used, limit, says) in [
            (150, 10, "reached: 150 used, the limit is 10; the request costs 3;"),
            (100, 100, "reached: 100 of 100 used; the request costs 3;"),
            (0, 0, "reached: 0 of 0 used; the request costs 3;"),
        ] {
            let problem = limit_reached_by(used, limit);
            assert!(problem.detail().contains(says), "{}", problem.detail());
        }
    }

    #[test]
    fn too_fast_requests_learn_when_to_try_again() {
        let some = |n| std::num::NonZeroU32::new(n).unwrap();
        let burst = Burst {
            per_second: some(20),
            size: some(50),
        };
        let problem = Problem::too_fast(burst, Duration::from_millis(1_001));
        let document = body(&problem);
        assert_eq!(
            (&document["status"], &document["error"]),
            (&json!(429), &json!("burst_limit_exceeded"))
        );
        let response = problem.into_response();
        assert_eq!(response.headers()["retry-after"], "2");
        assert_eq!(response.headers()["ratelimit-policy"], "\"burst\";q=50;w=3");
        assert_eq!(response.headers()["ratelimit"], "\"burst\";r=0;t=3");
    }

    #[test]
    fn temporary_problems_say_when_to_try_again() {
        for kind in of_the_gateway() {
            let response = Problem::new(kind, "why").into_response();
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
    fn a_problem_never_shows_a_key() {
        let key = api_key::ApiKey::generate();
        let problem = Problem::invalid(format!("invalid type: string \"{}\"", key.reveal()));
        assert!(!body(&problem).to_string().contains(api_key::PREFIX));
        let unpaid = |invoice_url: Option<&str>| Refusal::PaymentRequired {
            plan: "pro".into(),
            invoice_url: invoice_url.map(str::to_owned),
        };
        let usage_type = Catalogue::built_in().usage_types()[0];
        let problem = Problem::refused(unpaid(None), usage_type, 1, 0);
        assert_eq!(body(&problem)["upgrade_url"], "/billing/plans");
        assert!(body(&problem).get("hosted_invoice_url").is_none());
        let page = "https://invoice.stripe.com/i/1";
        let problem = Problem::refused(unpaid(Some(page)), usage_type, 1, 0);
        assert_eq!(body(&problem)["hosted_invoice_url"], page);
        assert_eq!(
            serde_json::to_value(problem.item("")).unwrap()["hosted_invoice_url"],
            page
        );
        assert_eq!(
            Problem::new(Kind::MissingKey, "").into_response().headers()["www-authenticate"],
            "Bearer"
        );
    }
}
