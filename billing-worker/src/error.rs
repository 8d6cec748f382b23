//! The errors of requests and commands. `http::error_response` turns them into HTTP responses.

use crate::stripe::StripeError;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The sentence names the field.
    #[error("{0}")]
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

    #[error("missing API key: send `Authorization: Bearer <API key>` with an API key of the account")]
    NoKey,
    #[error("the API key is malformed, unknown, expired or revoked")]
    InvalidKey,
    /// The database failed while a key was checked. Not a source: the text already contains the whole chain.
    #[error("database: {0}")]
    KeyUnchecked(sqlx::Error),
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
        "the account's Stripe customer and the key of this service belong to different Stripe modes (live and test)"
    )]
    WrongMode,
    #[error("{0}")]
    Webhook(&'static str),
    #[error("usage could not be reported to Stripe: {0}")]
    UsageUnreported(String),
    #[error("acknowledged usage may not be stored yet: {0}")]
    UsageNotStored(String),
    #[error(
        "Stripe has not counted all reported usage yet; nothing was changed: this change is possible in about {wait_s} s"
    )]
    UsageNotCounted { wait_s: i64 },
    #[error(
        "the billing period has just begun: this change is possible in {wait_s} s; nothing was changed, try again then"
    )]
    ReportedAhead { wait_s: i64 },
    #[error("webhooks are disabled: set STRIPE_WEBHOOK_SECRETS and restart the billing worker to enable them")]
    WebhooksClosed,
    #[error(transparent)]
    Stripe(StripeError),
    /// Another worker holds the account's lease, or no slot was free. Stripe was not called.
    #[error("too many requests are waiting for Stripe; nothing was changed: try again")]
    NoSlot,
    /// The result of the work was not stored: another worker has the account's lease now.
    #[error("another worker took over the account's subscription, and nothing was stored: try again")]
    LeaseLost,
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

/// PostgreSQL cannot store a NUL character in text.
pub fn has_nul_character(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .and_then(|error| error.code())
        .is_some_and(|code| code == "22021")
}

/// Can the same request succeed later? True if the server is unavailable (no connection, or class 08, 53, 57), or if two
/// transactions collided (class 40): <https://www.postgresql.org/docs/18/errcodes-appendix.html>.
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
