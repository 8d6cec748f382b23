//! The errors of requests and commands, and their HTTP responses.
//!
//! Answers are RFC 9457 problem documents that also carry `error`, for programs, and `message`, for people.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;
use tracing::{error, warn};

use crate::stripe::StripeError;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("invalid request: {0}")]
    Malformed(String),
    #[error("the body is larger than {limit} bytes")]
    TooLarge { limit: usize },
    #[error("the request body arrived too slowly or not completely")]
    BodyTimeout,
    #[error("missing or wrong admin token: send `Authorization: Bearer <ADMIN_TOKEN>` with the token of this service")]
    Unauthorized,
    #[error("the admin API is disabled: set ADMIN_TOKEN and restart the service to enable it")]
    AdminClosed,
    #[error("unknown path")]
    UnknownPath,
    #[error("method not allowed for this path")]
    UnknownMethod,

    #[error("account `{0}` not found")]
    UnknownAccount(String),
    #[error("API key `{0}` not found")]
    UnknownKey(String),
    #[error("no Stripe event `{0}` can be retried")]
    UnknownStripeEvent(String),
    #[error("unknown plan `{plan}`; the plans are: {known}")]
    UnknownPlan { plan: String, known: String },
    #[error("unknown usage type `{usage_type}`; the usage types are: {known}")]
    UnknownUsageType { usage_type: String, known: String },
    #[error("another account already uses the e-mail address `{0}`")]
    EmailTaken(String),
    #[error("`{0}` is not a valid e-mail address")]
    BadEmail(String),
    #[error("{field} {rule}")]
    BadValue { field: &'static str, rule: String },
    #[error("API key `{key}` is {state}: create a new key")]
    KeyEnded { key: String, state: &'static str },
    #[error(
        "the catalogue has no plan `{plan}`, but {accounts} accounts use it: keep the plan, or move the accounts to another plan first"
    )]
    PlanInUse { plan: String, accounts: i64 },

    #[error("missing or invalid API key: send `Authorization: Bearer <API key>` with an API key of the account")]
    NoKey,
    #[error("the account already has a subscription to `{plan}`: change it with POST /billing/upgrade, or cancel it")]
    AlreadySubscribed { plan: String },
    #[error("the account has no subscription: start one with POST /billing/create-checkout-session")]
    NotSubscribed,
    #[error("the account already has the plan `{plan}`")]
    SamePlan { plan: String },
    #[error("plan `{plan}` cannot be bought: {instead}")]
    NotForSale { plan: String, instead: &'static str },
    #[error("{0}")]
    Conflict(String),
    #[error("the payment failed: {0}")]
    PaymentFailed(String),
    #[error("Stripe has no price for `{lookup_keys}`: run `billing-worker stripe sync`")]
    PricesMissing { lookup_keys: String },
    #[error(
        "the account's Stripe customer belongs to the other Stripe mode (live or test) than the key of this service"
    )]
    WrongMode,
    #[error("{0}")]
    Webhook(&'static str),
    #[error("usage could not be reported to Stripe: {0}")]
    UsageUntold(String),
    #[error(
        "the billing period has just begun and its usage can be billed in {wait_s} s; nothing was changed: try again then"
    )]
    ToldAhead { wait_s: i64 },
    #[error("webhooks are disabled: set STRIPE_WEBHOOK_SECRETS and restart the billing worker to enable them")]
    WebhooksClosed,
    #[error(transparent)]
    Stripe(StripeError),
    /// No call to Stripe was made.
    #[error("too many requests wait for Stripe; nothing was changed: try again")]
    NoTurn,
    #[error(
        "event `{event}` of account `{account}` not found in ClickHouse: a new event may take a few seconds to arrive, so try \
         again; an event whose retention is over cannot be corrected"
    )]
    UnknownEvent { event: String, account: String },
    #[error("event `{0}` is itself a correction: correct the original event instead")]
    CorrectsCorrection(String),
    #[error("event `{event}` already has {units} units: nothing to correct")]
    NothingToCorrect { event: String, units: i64 },
    #[error(
        "event `{event}` has {units} units, and a correction can only lower them: `cost_units` must be less than {units}"
    )]
    NotLower { event: String, units: i64 },
    #[error("correction `{0}` exists with other events or units: use a new `correction_id`")]
    CorrectionTaken(String),
    #[error("ClickHouse: {0}")]
    ClickHouse(String),
    #[error("report `{0}` not found")]
    UnknownReport(String),
    #[error("report `{identifier}` is {state}: only a parked report can be retried")]
    ReportNotParked { identifier: String, state: String },
    #[error("run `{0}` not found")]
    UnknownRun(String),
    #[error("run `{run}` is {state}: only a spooling run can be given up; the service finds dead runs itself")]
    RunNotSpooling { run: String, state: String },
    #[error("notice `{0}` not found")]
    UnknownNotice(String),
    #[error("account `{0}` has no notice endpoint: set one first")]
    NoNoticeEndpoint(String),
    #[error("the notice endpoint of account `{0}` is disabled: set its URL again to enable it")]
    NoticeEndpointDisabled(String),

    #[error("the service is starting: try again in a few seconds")]
    Starting,
    /// Not as the source: the text already contains the whole chain.
    #[error("database: {0}")]
    Database(sqlx::Error),
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

impl From<StripeError> for Error {
    fn from(error: StripeError) -> Self {
        match error {
            StripeError::Refused(refusal) if refusal.kind == "card_error" || refusal.status == 402 => {
                Self::PaymentFailed(refusal.message)
            }
            other => Self::Stripe(other),
        }
    }
}

impl Error {
    fn answer(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Malformed(_) => (StatusCode::BAD_REQUEST, "malformed_request"),
            Self::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"),
            Self::BodyTimeout => (StatusCode::REQUEST_TIMEOUT, "body_timeout"),
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "unauthorized"),
            Self::AdminClosed => (StatusCode::FORBIDDEN, "admin_closed"),
            Self::UnknownPath => (StatusCode::NOT_FOUND, "unknown_path"),
            Self::UnknownMethod => (StatusCode::METHOD_NOT_ALLOWED, "unknown_method"),
            Self::UnknownAccount(_) => (StatusCode::NOT_FOUND, "unknown_account"),
            Self::UnknownKey(_) => (StatusCode::NOT_FOUND, "unknown_key"),
            Self::UnknownStripeEvent(_) => (StatusCode::NOT_FOUND, "unknown_event"),
            Self::UnknownPlan { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "unknown_plan"),
            Self::UnknownUsageType { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "unknown_usage_type"),
            Self::EmailTaken(_) => (StatusCode::CONFLICT, "email_taken"),
            Self::BadEmail(_) => (StatusCode::UNPROCESSABLE_ENTITY, "bad_email"),
            Self::BadValue { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "bad_value"),
            Self::KeyEnded { .. } => (StatusCode::CONFLICT, "key_ended"),
            Self::PlanInUse { .. } => (StatusCode::CONFLICT, "plan_in_use"),
            Self::NoKey => (StatusCode::UNAUTHORIZED, "unauthorized"),
            Self::AlreadySubscribed { .. } => (StatusCode::CONFLICT, "already_subscribed"),
            Self::NotSubscribed => (StatusCode::CONFLICT, "not_subscribed"),
            Self::SamePlan { .. } => (StatusCode::CONFLICT, "same_plan"),
            Self::NotForSale { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "not_for_sale"),
            Self::Conflict(_) => (StatusCode::CONFLICT, "conflict"),
            Self::PaymentFailed(_) => (StatusCode::PAYMENT_REQUIRED, "payment_failed"),
            Self::PricesMissing { .. } => (StatusCode::SERVICE_UNAVAILABLE, "prices_missing"),
            Self::WrongMode => (StatusCode::CONFLICT, "wrong_mode"),
            Self::Webhook(_) => (StatusCode::BAD_REQUEST, "webhook_refused"),
            Self::UsageUntold(_) | Self::ToldAhead { .. } => (StatusCode::SERVICE_UNAVAILABLE, "usage_untold"),
            Self::WebhooksClosed => (StatusCode::SERVICE_UNAVAILABLE, "webhooks_closed"),
            Self::Stripe(StripeError::Refused(_)) => (StatusCode::BAD_GATEWAY, "stripe_refused"),
            Self::Stripe(StripeError::Unauthorized(_) | StripeError::NotConfigured) => {
                (StatusCode::SERVICE_UNAVAILABLE, "stripe_not_configured")
            }
            Self::Stripe(_) | Self::NoTurn => (StatusCode::SERVICE_UNAVAILABLE, "stripe_unavailable"),
            Self::UnknownEvent { .. } => (StatusCode::NOT_FOUND, "unknown_event"),
            Self::CorrectsCorrection(_) => (StatusCode::UNPROCESSABLE_ENTITY, "corrects_correction"),
            Self::NothingToCorrect { .. } => (StatusCode::CONFLICT, "nothing_to_correct"),
            Self::NotLower { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "not_lower"),
            Self::CorrectionTaken(_) => (StatusCode::CONFLICT, "correction_taken"),
            Self::ClickHouse(_) => (StatusCode::SERVICE_UNAVAILABLE, "clickhouse_unavailable"),
            Self::UnknownReport(_) => (StatusCode::NOT_FOUND, "unknown_report"),
            Self::ReportNotParked { .. } => (StatusCode::CONFLICT, "report_not_parked"),
            Self::UnknownRun(_) => (StatusCode::NOT_FOUND, "unknown_run"),
            Self::RunNotSpooling { .. } => (StatusCode::CONFLICT, "run_not_spooling"),
            Self::UnknownNotice(_) => (StatusCode::NOT_FOUND, "unknown_notice"),
            Self::NoNoticeEndpoint(_) => (StatusCode::NOT_FOUND, "no_notice_endpoint"),
            Self::NoticeEndpointDisabled(_) => (StatusCode::CONFLICT, "notice_endpoint_disabled"),
            Self::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting"),
            Self::Database(error) if is_passing(error) => (StatusCode::SERVICE_UNAVAILABLE, "database_unavailable"),
            Self::Database(error) if has_nul_character(error) => (StatusCode::BAD_REQUEST, "malformed_request"),
            Self::Database(_) => (StatusCode::INTERNAL_SERVER_ERROR, "internal_error"),
        }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let (status, code) = self.answer();
        let message = match &self {
            // The database's message goes to the operator's log only.
            Self::Database(error) => {
                error!(status = status.as_u16(), "a request failed: {error}");
                match status {
                    StatusCode::BAD_REQUEST => "the request contains a NUL character".to_owned(),
                    StatusCode::SERVICE_UNAVAILABLE => "the database is unavailable: try again".to_owned(),
                    _ => "internal error; the service has logged it".to_owned(),
                }
            }
            Self::Stripe(error) => {
                error!(status = status.as_u16(), "a request failed: {error}");
                match error {
                    StripeError::Refused(refusal) => refusal.message.clone(),
                    StripeError::Unauthorized(_) => {
                        "Stripe rejects the key of this service: an operator must replace it".to_owned()
                    }
                    StripeError::NotConfigured => error.to_string(),
                    _ => "Stripe is unavailable; nothing is billed twice: try again".to_owned(),
                }
            }
            Self::UsageUntold(why) => {
                warn!(
                    status = status.as_u16(),
                    "a request failed: usage could not be reported to Stripe: {why}"
                );
                "usage cannot be reported to Stripe now and would not be billed: try again".to_owned()
            }
            Self::ClickHouse(why) => {
                warn!(status = status.as_u16(), "a request failed: ClickHouse: {why}");
                "usage data is unavailable: try again".to_owned()
            }
            other => other.to_string(),
        };
        let problem = json!({
            "type": format!("urn:trendit:problem:{code}"),
            "title": status.canonical_reason(),
            "status": status.as_u16(),
            "detail": message,
            "error": code,
            "message": message,
        });
        let mut response = (status, Json(problem)).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if status == StatusCode::SERVICE_UNAVAILABLE {
            let wait_s = match self {
                Self::ToldAhead { wait_s } => wait_s,
                _ => 5,
            };
            headers.insert(header::RETRY_AFTER, HeaderValue::from(wait_s));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// PostgreSQL cannot store a NUL character in text.
fn has_nul_character(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .and_then(|error| error.code())
        .is_some_and(|code| code == "22021")
}

/// Can the same request succeed later? True if the server is unavailable (no connection, or class 08, 53, 57), or if two
/// transactions collided (class 40): https://www.postgresql.org/docs/18/errcodes-appendix.html.
pub fn is_passing(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => true,
        sqlx::Error::Database(error) => error
            .code()
            .is_some_and(|code| ["08", "40", "53", "57"].iter().any(|class| code.starts_with(class))),
        _ => false,
    }
}

/// Returns the constraint that a statement violated.
pub fn violated(error: &sqlx::Error) -> Option<&str> {
    error.as_database_error().and_then(|error| error.constraint())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temporary_failures_ask_to_retry_and_others_hide_their_reason() {
        let away = Error::Database(sqlx::Error::PoolTimedOut).into_response();
        assert_eq!(away.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(away.headers()[header::RETRY_AFTER], "5");
        let wrong = Error::Database(sqlx::Error::RowNotFound).into_response();
        assert_eq!(wrong.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(wrong.headers()[header::CONTENT_TYPE], "application/problem+json");
    }
}
