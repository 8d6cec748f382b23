//! Errors as HTTP responses: which problem type each one is, and what the client reads.

use axum::response::{IntoResponse, Response};
use problem::{Kind, Members, Problem};
use schema::period::instant;
use time::format_description::well_known::Rfc3339;
use tracing::{error, warn};

use super::stripe_problem;
use crate::{
    error::{Error, InvoiceToPay, has_nul_character, is_passing},
    stripe::StripeError,
};

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let kind = kind(&self);
        let problem = Problem::new(kind, detail(&self, kind));
        match self {
            Self::ReportedAhead { wait_s } | Self::UsageNotCounted { wait_s } => problem.retry_after(wait_s),
            Self::PaymentRequired(invoice) | Self::PaymentActionRequired { invoice, .. } => {
                problem.with(members(*invoice))
            }
            Self::SpendCapBelowUsage { cents, used_cents } => problem.with(Members {
                cap_cents: Some(cents),
                used_cents: Some(used_cents),
                ..Members::default()
            }),
            _ if kind == Kind::TooManyRequests => problem.retry_after(1),
            _ if kind.is_temporary() => problem.retry_after(5),
            _ => problem,
        }
        .into_response()
    }
}

fn members(invoice: InvoiceToPay) -> Members {
    let expires_at = invoice.expires_at.map(instant);
    Members {
        invoice_id: Some(invoice.invoice_id),
        hosted_invoice_url: invoice.hosted_invoice_url,
        client_secret: invoice.client_secret,
        expires_at: expires_at.and_then(|at| at.format(&Rfc3339).ok()),
        ..Members::default()
    }
}

fn kind(error: &Error) -> Kind {
    match error {
        Error::Malformed(_) => Kind::InvalidRequest,
        Error::TooLarge { .. } => Kind::TooLarge,
        Error::BodyTimeout => Kind::BodyTimeout,
        Error::ScopeMissing { .. } => Kind::ScopeMissing,
        Error::KeyUnchecked(error) if is_passing(error) => Kind::KeyUnchecked,
        Error::KeyUnchecked(_) => Kind::Internal,
        Error::AdminClosed => Kind::AdminClosed,
        Error::UnknownAccount(_) | Error::AccountByEmail(_) => Kind::UnknownAccount,
        Error::UnknownKey(_) => Kind::UnknownKey,
        Error::UnknownCustomer(_) => Kind::UnknownCustomer,
        Error::CustomerTaken(_) => Kind::CustomerTaken,
        Error::UnknownStripeEvent(_) => Kind::UnknownStripeEvent,
        Error::UnknownPlan { .. } => Kind::UnknownPlan,
        Error::UnknownUsageType { .. } => Kind::UnknownUsageType,
        Error::EmailTaken(_) => Kind::EmailTaken,
        Error::BadEmail(_) => Kind::InvalidRequest,
        Error::BadValue { .. } => Kind::InvalidRequest,
        Error::KeyEnded { .. } => Kind::KeyEnded,
        Error::PlanInUse { .. } => Kind::PlanInUse,
        Error::AlreadySubscribed { .. } => Kind::AlreadySubscribed,
        Error::UnknownSubscription { .. } => Kind::UnknownSubscription,
        Error::NotSubscribed => Kind::NotSubscribed,
        Error::SamePlan { .. } => Kind::SamePlan,
        Error::NotForSale { .. } => Kind::NotForSale,
        Error::IntervalNotOffered { .. } => Kind::IntervalNotOffered,
        Error::IntervalChangeRefused { .. } => Kind::IntervalChangeRefused,
        Error::OverrideNotBillable { .. } => Kind::OverrideNotBillable,
        Error::SpendCapBelowUsage { .. } => Kind::SpendCapBelowUsage,
        Error::ChangedTooOften { .. } => Kind::ChangedTooOften,
        Error::PreviewExpired => Kind::PreviewExpired,
        Error::PreviewOutdated { .. } => Kind::PreviewOutdated,
        Error::VersionGone { .. } => Kind::VersionGone,
        Error::Conflict(_) => Kind::Conflict,
        Error::PaymentFailed(_) => Kind::PaymentFailed,
        Error::PaymentRequired(_) => Kind::PaymentRequired,
        Error::PaymentActionRequired { .. } => Kind::PaymentActionRequired,
        Error::PricesMissing { .. } => Kind::PricesMissing,
        Error::WrongMode => Kind::WrongMode,
        Error::Webhook(_) => Kind::WebhookRefused,
        Error::UsageNotStored(_) => Kind::UsageNotStored,
        Error::UsageUnreported(_) | Error::UsageNotCounted { .. } | Error::ReportedAhead { .. } => {
            Kind::UsageNotReported
        }
        Error::WebhooksClosed => Kind::WebhooksClosed,
        Error::PaymentMethodUnsupported { .. } => Kind::PaymentMethodUnsupported,
        Error::AccountSuspended => Kind::AccountSuspended,
        Error::UnknownInvoice => Kind::UnknownInvoice,
        Error::ContradictoryTier { .. } => Kind::ContradictoryTier,
        Error::TooManyRequests(_) => Kind::TooManyRequests,
        Error::Stripe(why) => stripe_problem::kind(why),
        Error::NoSlot | Error::LeaseLost => Kind::StripeUnavailable,
        Error::UnknownEvent { .. } => Kind::UnknownEvent,
        Error::CorrectsCorrection(_) => Kind::CorrectsCorrection,
        Error::NothingToCorrect { .. } => Kind::NothingToCorrect,
        Error::NotLower { .. } => Kind::NotLower,
        Error::CorrectionTaken(_) => Kind::CorrectionTaken,
        Error::ClickHouse(_) => Kind::ClickHouseUnavailable,
        Error::UnknownReport(_) => Kind::UnknownReport,
        Error::ReportNotParked { .. } => Kind::ReportNotParked,
        Error::UnknownRun(_) => Kind::UnknownRun,
        Error::RunNotSpooling { .. } => Kind::RunNotSpooling,
        Error::UnknownNotice(_) => Kind::UnknownNotice,
        Error::NoNoticeEndpoint(_) => Kind::NoNoticeEndpoint,
        Error::NoticeEndpointDisabled(_) => Kind::NoticeEndpointDisabled,
        Error::Starting => Kind::Starting,
        Error::Database(error) if is_passing(error) => Kind::DatabaseUnavailable,
        Error::Database(error) if has_nul_character(error) => Kind::InvalidRequest,
        Error::Database(_) => Kind::Internal,
    }
}

/// The sentence for the client. The reason of an error that the client did not cause is logged, and not shown.
fn detail(error: &Error, kind: Kind) -> String {
    let status = kind.status().as_u16();
    match error {
        Error::Database(why) | Error::KeyUnchecked(why) => {
            error!(status, "a request failed: {why}");
            match kind {
                Kind::InvalidRequest => "the request contains a NUL character".to_owned(),
                kind => kind.detail().to_owned(),
            }
        }
        // The metrics count it. A log line for each would help those who send too much.
        Error::Stripe(full @ StripeError::Full) => stripe_problem::detail(full).to_owned(),
        Error::Stripe(why) => {
            match kind {
                // The customer can solve these.
                Kind::CurrencyMismatch | Kind::PaymentMethodUnsupported => warn!(status, "a request failed: {why}"),
                _ => error!(status, "a request failed: {why}"),
            }
            stripe_problem::detail(why).to_owned()
        }
        Error::UsageUnreported(why) => {
            warn!(status, "a request failed: usage could not be reported to Stripe: {why}");
            "usage cannot be reported to Stripe now and would not be billed: try again".to_owned()
        }
        // The reason is in the log already.
        Error::UsageNotStored(_) => kind.detail().to_owned(),
        Error::ClickHouse(why) => {
            warn!(status, "a request failed: ClickHouse: {why}");
            "usage data is unavailable: try again".to_owned()
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::header;

    #[test]
    fn temporary_errors_ask_to_try_again_and_others_hide_their_reason() {
        let away = Error::Database(sqlx::Error::PoolTimedOut).into_response();
        assert_eq!(away.status(), 503);
        assert_eq!(away.headers()[header::RETRY_AFTER], "5");
        let wrong = Error::Database(sqlx::Error::RowNotFound).into_response();
        assert_eq!(wrong.status(), 500);
        assert_eq!(wrong.headers()[header::CONTENT_TYPE], "application/problem+json");
        let problem = wrong.extensions().get::<Problem>().unwrap();
        assert!(!problem.detail().contains("row"), "{problem:?}");
        let not_stored = Error::UsageNotStored("the spool of a gateway".to_owned()).into_response();
        assert_eq!(not_stored.status(), 503);
        assert_eq!(not_stored.headers()[header::RETRY_AFTER], "5");
        let ahead = Error::ReportedAhead { wait_s: 60 }.into_response();
        assert_eq!(ahead.headers()[header::RETRY_AFTER], "60");
        let full = Error::Stripe(StripeError::Full).into_response();
        assert_eq!(full.status(), 429);
        assert_eq!(full.headers()[header::RETRY_AFTER], "1");
    }
}
