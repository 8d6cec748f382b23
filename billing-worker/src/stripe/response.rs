//! A response of Stripe, and what it proves.

use std::time::Duration;

use axum::http::{HeaderMap, StatusCode, header};
use bytes::Bytes;
use serde::Deserialize;

use super::{Reason, StripeError, StripeMetrics, error::Refusal, reason};

pub(super) struct StripeResponse {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

#[derive(Deserialize)]
struct Refused {
    error: Refusal,
}

impl StripeResponse {
    /// The header `Stripe-Should-Retry`.
    pub(super) fn should_retry(&self) -> Option<bool> {
        match self.headers.get("stripe-should-retry")?.as_bytes() {
            b"true" => Some(true),
            b"false" => Some(false),
            _ => None,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        let seconds = self.headers.get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
        Some(Duration::from_secs(seconds))
    }

    /// The body of a success, or what the response proves. (<https://docs.stripe.com/error-low-level>)
    pub(super) fn ok(self, metrics: &StripeMetrics) -> Result<Bytes, StripeError> {
        let status = self.status.as_u16();
        match status {
            200..=299 => return Ok(self.body),
            500.. => return Err(StripeError::Failed(status)),
            _ => {}
        }
        let refusal = Refusal {
            status,
            ..serde_json::from_slice::<Refused>(&self.body)
                .map(|refused| refused.error)
                .unwrap_or_default()
        };
        let reason = reason::of(&refusal);
        metrics.refused(reason);
        Err(match reason {
            Reason::Key => StripeError::Unauthorized(refusal.message),
            Reason::Busy => StripeError::Busy {
                retry_after: self.retry_after(),
                why: refusal.message,
            },
            _ => StripeError::Refused(Box::new(refusal)),
        })
    }
}
