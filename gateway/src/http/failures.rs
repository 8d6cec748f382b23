//! Converts errors of other modules into problems.

use crate::{
    accounts::burst::TooFast,
    http::problem::{Kind, Problem},
    recording::{recorder::RecordError, responses::ClaimError},
};

impl From<TooFast> for Problem {
    fn from(error: TooFast) -> Self {
        Self::too_fast(error.burst, error.wait)
    }
}

impl From<ClaimError> for Problem {
    fn from(error: ClaimError) -> Self {
        match error {
            ClaimError::UnderWay => Self::new(
                Kind::KeyUnderWay,
                "the first request with this Idempotency-Key is still being processed: try again later for its response",
            ),
            ClaimError::OtherRequest => Self::new(
                Kind::KeyReused,
                "this Idempotency-Key was used for a request with another path or body: use a new key for a new request",
            ),
        }
    }
}

impl From<RecordError> for Problem {
    fn from(error: RecordError) -> Self {
        match error {
            RecordError::LaneClosed => Self::new(
                Kind::RecordingUnavailable,
                "usage cannot be recorded now; nothing was counted: try again later",
            ),
            RecordError::ClockWrong => Self::of(Kind::ClockWrong),
            RecordError::Refused {
                refusal,
                usage_type,
                cost,
                now_s,
            } => Self::refused(refusal, usage_type, cost, now_s),
            RecordError::NotStored => Self::new(
                Kind::NotRecorded,
                "the usage could not be recorded; nothing was counted: try again later",
            ),
            RecordError::OutcomeUnknown => Self::new(
                Kind::OutcomeUnknown,
                "the usage was sent, but its record is not confirmed; it is counted once or not at all",
            ),
        }
    }
}
