//! The errors of requests and commands. `http::error_response` turns them into HTTP responses.

use problem::{Secret, shown};
use schema::{Interval, KeyId, Scope};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::stripe::{Reason, StripeError, reason};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The sentence names the field.
    #[error("{0}")]
    Malformed(String),
    #[error("the body is larger than {limit} bytes")]
    TooLarge { limit: usize },
    #[error("the request body arrived too slowly or not completely")]
    BodyTimeout,
    #[error("the admin API is disabled: set ADMIN_TOKEN and restart the service to enable it")]
    AdminClosed,
    #[error("{0}: try again in a second, with fewer at the same time")]
    TooManyRequests(&'static str),

    #[error("account `{}` not found", shown(.0))]
    UnknownAccount(String),
    #[error(
        "account `{}` not found: the admin API takes the id of an account, not its e-mail address (`billing-worker accounts show` \
         prints the id)",
        shown(.0)
    )]
    AccountByEmail(String),
    #[error("API key `{}` not found", shown(.0))]
    UnknownKey(String),
    #[error(
        "Stripe has no customer `{}`, or has deleted it: check its id, and that it belongs to the Stripe account and mode of this \
         service's key",
        shown(.0)
    )]
    UnknownCustomer(String),
    /// The sentence says whose it is, and what to do.
    #[error("{0}; nothing was changed")]
    CustomerTaken(String),
    #[error("no Stripe event `{}` can be retried", shown(.0))]
    UnknownStripeEvent(String),
    #[error("unknown plan `{}`; known: {known}", shown(plan))]
    UnknownPlan { plan: String, known: String },
    #[error("unknown usage type `{}`; known: {known}", shown(usage_type))]
    UnknownUsageType { usage_type: String, known: String },
    #[error("another account already uses the e-mail address `{}`", shown(.0))]
    EmailTaken(String),
    #[error("`email` must be an e-mail address, got \"{}\"", shown(.0))]
    BadEmail(String),
    /// The rule ends with the value that was sent.
    #[error("`{field}` {rule}")]
    BadValue { field: &'static str, rule: String },
    #[error("API key `{key}` is {state}: create a new key")]
    KeyEnded { key: String, state: &'static str },
    #[error(
        "the catalogue has no plan `{plan}`, but {accounts} accounts use it: keep the plan, or move the accounts to another plan first"
    )]
    PlanInUse { plan: String, accounts: i64 },

    #[error(
        "the API key lacks the scope `{scope}`, which every change under /billing needs; nothing was changed: use a key that has \
         it, or ask the operator to add it to the key {key}"
    )]
    ScopeMissing { scope: Scope, key: KeyId },
    /// The database failed while a key was checked. Not a source: the text already contains the whole chain.
    #[error("database: {0}")]
    KeyUnchecked(sqlx::Error),
    #[error("the account already has a subscription to `{plan}`: change it with POST /billing/upgrade, or cancel it")]
    AlreadySubscribed { plan: String },
    #[error(
        "the account's customer in Stripe already pays for the subscription {subscription}, which is for no plan here; nothing \
         was started: ask the operator, who finds it in `billing-worker reports attention`"
    )]
    UnknownSubscription { subscription: String },
    #[error(
        "the account has no subscription: start one with POST /billing/create-checkout-session (the operator changes a plan that \
         the operator assigned)"
    )]
    NotSubscribed,
    #[error("the account already has the plan `{plan}`")]
    SamePlan { plan: String },
    #[error("plan `{plan}` is not sold by the {interval}; `interval` can be: {offered}; nothing was changed")]
    IntervalNotOffered {
        plan: String,
        interval: Interval,
        offered: String,
    },
    /// The sentence says why, and what to do.
    #[error("the subscription is paid per {from}, and cannot be changed to {to}: {why}; nothing was changed")]
    IntervalChangeRefused {
        from: String,
        to: Interval,
        why: &'static str,
    },
    #[error("plan `{plan}` cannot be bought: {instead}")]
    NotForSale { plan: String, instead: &'static str },
    #[error(
        "the plan `{plan}` bills `{usage_type}` ({mode}), and its price includes {included} units whatever the limit says; nothing \
         was changed: sell the account a plan of its own (in the catalogue, `listed = false` keeps it out of the price list)"
    )]
    OverrideNotBillable {
        plan: String,
        usage_type: &'static str,
        mode: &'static str,
        included: i64,
    },
    #[error(
        "the usage of this billing period already costs {used_cents} cents, more than a cap of {cents}; nothing was changed: set \
         `cents` to {used_cents} to stop now, or to more"
    )]
    SpendCapBelowUsage { cents: i64, used_cents: i64 },
    #[error(
        "usage prices can change twice in a billing period; nothing was changed: try again after {}, or let the plan start with the \
         next period (\"when\": \"period_end\")",
        until.format(&Rfc3339).unwrap_or_default()
    )]
    ChangedTooOften { until: OffsetDateTime },
    #[error("no valid preview has this `proration_date`; nothing was changed: ask for another preview")]
    PreviewExpired,
    #[error(
        "the upgrade costs {now} {currency} cents now, not {previewed} as in the preview, because the invoice or the balance of \
         the customer changed; nothing was changed: ask for another preview"
    )]
    PreviewOutdated { previewed: i64, now: i64, currency: String },
    #[error("the plan version {} {why}", shown(version))]
    VersionGone { version: String, why: &'static str },
    #[error("{0}")]
    Conflict(String),
    #[error(
        "the account pays by `{kind}`, and with it no larger plan can begin at once: add a card (POST /billing/portal-session), \
         or change the plan with the next period (\"when\": \"period_end\")"
    )]
    PaymentMethodUnsupported { kind: String },
    #[error("the payment failed: {0}")]
    PaymentFailed(String),
    #[error(
        "the account owes the invoice {}; nothing was changed: pay it first (`hosted_invoice_url`), then try again",
        .0.invoice_id
    )]
    PaymentRequired(Box<InvoiceToPay>),
    /// The second sentence says what happens besides.
    #[error(
        "the bank asks the customer to confirm the payment (`client_secret`, or `hosted_invoice_url`): the larger plan begins once \
         it is confirmed{also}"
    )]
    PaymentActionRequired {
        invoice: Box<InvoiceToPay>,
        also: &'static str,
    },
    #[error("the account is suspended: it can buy nothing before an operator resumes it")]
    AccountSuspended,
    #[error("the account has no such invoice")]
    UnknownInvoice,
    #[error("`tier` is `{query}` in the query string and `{body}` in the body: send it in one place")]
    ContradictoryTier { query: String, body: String },
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
        "Stripe counts usage by whole minutes, and the billing period or its usage prices began less than a minute ago; nothing \
         was changed: try again in {wait_s} s"
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
    #[error("report `{}` not found", shown(.0))]
    UnknownReport(String),
    #[error("report `{identifier}` is {state}: only a parked report can be retried")]
    ReportNotParked { identifier: String, state: String },
    #[error("run `{}` not found", shown(.0))]
    UnknownRun(String),
    #[error("run `{run}` is {state}: only a spooling run can be given up; the service finds dead runs itself")]
    RunNotSpooling { run: String, state: String },
    #[error("notice `{}` not found", shown(.0))]
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

/// The invoice that stands between a customer and a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvoiceToPay {
    pub invoice_id: String,
    pub hosted_invoice_url: Option<String>,
    /// A payment form confirms the payment with it.
    pub client_secret: Option<Secret>,
    /// Until then the payment can be confirmed, in seconds since the Unix epoch.
    pub expires_at: Option<i64>,
}

impl Error {
    /// Stripe refused the call, or its key is wrong: the same call fails again until someone changes something.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Stripe(failure) => !failure.is_passing(),
            Self::PaymentFailed(_)
            | Self::PaymentRequired(_)
            | Self::PaymentActionRequired { .. }
            | Self::PaymentMethodUnsupported { .. } => true,
            _ => false,
        }
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

impl From<StripeError> for Error {
    fn from(error: StripeError) -> Self {
        let StripeError::Refused(refusal) = error else {
            return Self::Stripe(error);
        };
        match reason::of(&refusal) {
            // Stripe writes the messages of card errors for the customer.
            Reason::Declined if refusal.kind == "card_error" => Self::PaymentFailed(refusal.message),
            Reason::Declined => Self::PaymentFailed(
                "the bank declined it, or asks the customer to confirm it: use another payment method (POST \
                 /billing/portal-session)"
                    .to_owned(),
            ),
            Reason::NoPaymentMethod => Self::PaymentFailed(
                "the customer has no payment method: add one (POST /billing/portal-session)".to_owned(),
            ),
            _ => Self::Stripe(StripeError::Refused(refusal)),
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
