//! What can go wrong with a request or a command, and the one place that turns it into an HTTP answer.
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
    #[error("the request cannot be read: {0}")]
    Malformed(String),
    #[error("the body is larger than {limit} bytes")]
    TooLarge { limit: usize },
    #[error("the body came too slowly, or stopped")]
    BodyTimeout,
    #[error("send the header `Authorization: Bearer <ADMIN_TOKEN>` with the token that this service was started with")]
    Unauthorized,
    #[error("the admin API is closed: start the service with ADMIN_TOKEN set to a secret of your own to open it")]
    AdminClosed,
    #[error("nothing is at this address")]
    UnknownPath,
    #[error("this address does not know that method")]
    UnknownMethod,

    #[error("there is no account `{0}`")]
    UnknownAccount(String),
    #[error("there is no API key `{0}`")]
    UnknownKey(String),
    #[error("there is no event of Stripe's `{0}` that could be worked on again")]
    UnknownStripeEvent(String),
    #[error("there is no plan `{plan}`; known: {known}")]
    UnknownPlan { plan: String, known: String },
    #[error("there is no usage type `{usage_type}`; known: {known}")]
    UnknownUsageType { usage_type: String, known: String },
    #[error("an account with the e-mail address `{0}` exists")]
    EmailTaken(String),
    #[error("`{0}` is not an e-mail address")]
    BadEmail(String),
    #[error("{field} {rule}")]
    BadValue { field: &'static str, rule: String },
    #[error("the API key `{key}` is {state}: make a new one")]
    KeyEnded { key: String, state: &'static str },
    #[error("plan `{plan}` is not in the catalogue, but {accounts} accounts have it: keep it, or move them first")]
    PlanInUse { plan: String, accounts: i64 },

    #[error("send the header `Authorization: Bearer <API key>` with an API key of the account")]
    NoKey,
    #[error("the account is subscribed to `{plan}`: change it with POST /billing/upgrade, or cancel it")]
    AlreadySubscribed { plan: String },
    #[error("the account has no subscription: begin one with POST /billing/create-checkout-session")]
    NotSubscribed,
    #[error("the account is on plan `{plan}` already")]
    SamePlan { plan: String },
    #[error("plan `{plan}` is not for sale: {instead}")]
    NotForSale { plan: String, instead: &'static str },
    #[error("{0}")]
    Conflict(String),
    #[error("the payment failed: {0}")]
    PaymentFailed(String),
    #[error("Stripe has no price for `{lookup_keys}`: run `billing-worker stripe sync`")]
    PricesMissing { lookup_keys: String },
    #[error("the account is a customer in Stripe's other mode (live or test), and this service has the key of one")]
    WrongMode,
    #[error("{0}")]
    Webhook(&'static str),
    #[error("usage could not be told to Stripe: {0}")]
    UsageUntold(String),
    #[error(
        "the period has just begun, and what was used in it can be billed in {wait_s} s; nothing was changed: try again then"
    )]
    ToldAhead { wait_s: i64 },
    #[error("webhooks are not set up: start the billing worker with STRIPE_WEBHOOK_SECRETS")]
    WebhooksClosed,
    #[error(transparent)]
    Stripe(StripeError),
    /// Nothing was asked yet.
    #[error("many calls wait for Stripe's answers; nothing was done: try again")]
    NoTurn,
    #[error(
        "account `{account}` has no event `{event}` in ClickHouse: one that was recorded just now may still be on its way, \
         try again in a few seconds; one whose retention is over cannot be corrected"
    )]
    UnknownEvent { event: String, account: String },
    #[error("event `{0}` is a correction itself: correct the event that it corrects")]
    CorrectsCorrection(String),
    #[error("event `{event}` has {units} units already: there is nothing to correct")]
    NothingToCorrect { event: String, units: i64 },
    #[error(
        "event `{event}` has {units} units: a correction only lowers them, so `cost_units` is from 0 to less than that"
    )]
    NotLower { event: String, units: i64 },
    #[error("correction `{0}` was made of other events or units: use a new correction_id for another one")]
    CorrectionTaken(String),
    #[error("ClickHouse: {0}")]
    ClickHouse(String),
    #[error("there is no report `{0}`")]
    UnknownReport(String),
    #[error("the report `{identifier}` is {state}: only a parked one is tried again by hand")]
    ReportNotParked { identifier: String, state: String },
    #[error("there is no run `{0}`")]
    UnknownRun(String),
    #[error("the run `{run}` is {state}: only one that spools is given up by hand, a dead one is found by its silence")]
    RunNotSpooling { run: String, state: String },
    #[error("there is no notice `{0}`")]
    UnknownNotice(String),
    #[error("account `{0}` has no notice endpoint: set one first")]
    NoNoticeEndpoint(String),
    #[error("the notice endpoint of account `{0}` is disabled: set its URL again to use it")]
    NoticeEndpointDisabled(String),

    #[error("the service is starting")]
    Starting,
    /// Not as its source: its text tells the whole chain already.
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
            Self::Database(error) if is_no_text(error) => (StatusCode::BAD_REQUEST, "malformed_request"),
            Self::Database(_) => (StatusCode::INTERNAL_SERVER_ERROR, "internal_error"),
        }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let (status, code) = self.answer();
        let message = match &self {
            // What the database says is for the operator's log.
            Self::Database(error) => {
                error!(status = status.as_u16(), "an answer failed: {error}");
                match status {
                    StatusCode::BAD_REQUEST => "the request has a zero character in it".to_owned(),
                    StatusCode::SERVICE_UNAVAILABLE => "the database cannot be reached; try again".to_owned(),
                    _ => "something went wrong here; the log has it".to_owned(),
                }
            }
            Self::Stripe(error) => {
                error!(status = status.as_u16(), "an answer failed: {error}");
                match error {
                    StripeError::Refused(refusal) => refusal.message.clone(),
                    StripeError::Unauthorized(_) => {
                        "Stripe does not accept this service's key: an operator has to replace it".to_owned()
                    }
                    StripeError::NotConfigured => error.to_string(),
                    _ => "Stripe cannot be asked now; nothing is billed twice: try again".to_owned(),
                }
            }
            Self::UsageUntold(why) => {
                warn!(
                    status = status.as_u16(),
                    "an answer failed: usage could not be told to Stripe: {why}"
                );
                "what was used cannot be told to Stripe now, and would not be billed: try again".to_owned()
            }
            Self::ClickHouse(why) => {
                warn!(status = status.as_u16(), "an answer failed: ClickHouse: {why}");
                "usage cannot be read now; try again".to_owned()
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

/// PostgreSQL has no zero character: what has one in it is stored nowhere, and names nothing.
fn is_no_text(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .and_then(|error| error.code())
        .is_some_and(|code| code == "22021")
}

/// Will the same request work later? The server is away (no connection, or class 08, 53, 57), or two transactions met
/// (class 40): https://www.postgresql.org/docs/18/errcodes-appendix.html.
pub fn is_passing(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => true,
        sqlx::Error::Database(error) => error
            .code()
            .is_some_and(|code| ["08", "40", "53", "57"].iter().any(|class| code.starts_with(class))),
        _ => false,
    }
}

/// The constraint that a statement violated.
pub fn violated(error: &sqlx::Error) -> Option<&str> {
    error.as_database_error().and_then(|error| error.constraint())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_asks_to_try_again_and_what_does_not_hides_its_reason() {
        let away = Error::Database(sqlx::Error::PoolTimedOut).into_response();
        assert_eq!(away.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(away.headers()[header::RETRY_AFTER], "5");
        let wrong = Error::Database(sqlx::Error::RowNotFound).into_response();
        assert_eq!(wrong.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(wrong.headers()[header::CONTENT_TYPE], "application/problem+json");
    }
}
