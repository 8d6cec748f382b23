//! Derives the outcome of an attempt from Stripe's response to a meter event.

use protocol::reports::outcome::DeliveryOutcome;

use crate::stripe::StripeError;

/// The timestamp is ahead of Stripe's clock, because our clock was fast when the report was written. A later attempt succeeds.
const IN_FUTURE: &str = "timestamp_in_future";

/// The outcome of one attempt. Each kind of error has its own arm, so a new kind needs a decision here.
pub fn outcome(answer: Result<(), StripeError>) -> DeliveryOutcome {
    let error = match answer {
        Ok(()) => return DeliveryOutcome::Delivered,
        Err(error) => error,
    };
    let why = error.to_string();
    match error {
        StripeError::Busy { retry_after, .. } => DeliveryOutcome::NotNow {
            why,
            after: retry_after,
        },
        // Something between Stripe and us may have answered in its place.
        StripeError::Unknown(_) | StripeError::Failed(_) | StripeError::Unreadable(_) => {
            DeliveryOutcome::Unknown { why }
        }
        StripeError::Full | StripeError::Unauthorized(_) | StripeError::NotConfigured => {
            DeliveryOutcome::NotNow { why, after: None }
        }
        StripeError::Refused(ref refusal) if is_duplicate(refusal.status, &refusal.message) => {
            DeliveryOutcome::Delivered
        }
        StripeError::Refused(_) if is_general(&error) => DeliveryOutcome::NotNow { why, after: None },
        StripeError::Refused(ref refusal) if refusal.code.as_deref() == Some(IN_FUTURE) => {
            DeliveryOutcome::NotNow { why, after: None }
        }
        StripeError::Refused(_) => DeliveryOutcome::Refused { why },
    }
}

/// Whether Stripe refuses every report for this reason until an operator fixes it. No report is parked for such a refusal.
pub fn is_general(error: &StripeError) -> bool {
    match error {
        StripeError::Unauthorized(_) | StripeError::NotConfigured => true,
        // `billing-worker stripe sync` was not run, or someone archived the meter.
        StripeError::Refused(refusal) => {
            refusal.param.as_deref() == Some("event_name")
                || matches!(refusal.code.as_deref(), Some("no_meter" | "archived_meter"))
        }
        _ => false,
    }
}

/// Whether Stripe already has the identifier. Stripe then responds with a 400 of type `invalid_request_error` without a code, so
/// only its message identifies the error.
fn is_duplicate(status: u16, message: &str) -> bool {
    status == 400 && message.starts_with("An event already exists with identifier")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stripe::error::Refusal;

    fn refused(status: u16, param: Option<&str>, message: &str) -> StripeError {
        StripeError::Refused(Box::new(Refusal {
            status,
            param: param.map(str::to_owned),
            message: message.to_owned(),
            ..Refusal::default()
        }))
    }

    #[test]
    fn each_response_has_the_outcome_that_it_proves() {
        let duplicate = refused(400, None, "An event already exists with identifier cus_1.x.");
        let no_meter = refused(400, Some("event_name"), "No active meter found for event name x.");
        let bad_time = refused(
            400,
            Some("timestamp"),
            "The timestamp must be within the past 35 calendar days.",
        );
        let fast_clock = StripeError::Refused(Box::new(Refusal {
            status: 400,
            code: Some("timestamp_in_future".into()),
            ..Refusal::default()
        }));
        for (answer, expected) in [
            (Ok(()), "Delivered"),
            (Err(fast_clock), "NotNow"),
            (Err(StripeError::Unreadable("html".into())), "Unknown"),
            (Err(duplicate), "Delivered"),
            (
                Err(StripeError::Busy {
                    why: "lock".into(),
                    retry_after: None,
                }),
                "NotNow",
            ),
            (Err(StripeError::Full), "NotNow"),
            (Err(StripeError::Unknown("reset".into())), "Unknown"),
            (Err(StripeError::Failed(500)), "Unknown"),
            (Err(StripeError::Unauthorized("expired".into())), "NotNow"),
            (Err(no_meter), "NotNow"),
            (Err(bad_time), "Refused"),
        ] {
            let shown = format!("{answer:?}");
            assert!(format!("{:?}", outcome(answer)).starts_with(expected), "{shown}");
        }
    }
}
