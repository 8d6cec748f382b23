//! The kinds of problems, each with its status: the only place that knows status codes.

use axum::http::StatusCode;

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident $status:ident $error:literal $title:literal)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Kind {
            $($(#[$doc])* $kind,)*
        }

        impl Kind {
            pub const ALL: &[Self] = &[$(Self::$kind),*];

            pub fn status(self) -> StatusCode {
                match self { $(Self::$kind => StatusCode::$status,)* }
            }

            /// The stable name: `error` in the body, and what programs branch on.
            pub fn error(self) -> &'static str {
                match self { $(Self::$kind => $error,)* }
            }

            /// `type` in the body.
            pub fn urn(self) -> &'static str {
                match self { $(Self::$kind => concat!("urn:trendit:problem:", $error),)* }
            }

            pub fn title(self) -> &'static str {
                match self { $(Self::$kind => $title,)* }
            }
        }
    };
}

kinds! {
    InvalidRequest BAD_REQUEST "invalid_request" "The request cannot be understood"
    MissingKey UNAUTHORIZED "missing_api_key" "An API key is needed"
    InvalidKey UNAUTHORIZED "invalid_api_key" "The API key is not valid"
    KeyInUrl UNAUTHORIZED "api_key_in_url" "An API key does not belong into a URL"
    SubscriptionRequired PAYMENT_REQUIRED "subscription_required" "The subscription must be paid first"
    UnknownRoute NOT_FOUND "unknown_route" "There is nothing at this path"
    UnknownUsageType NOT_FOUND "unknown_usage_type" "There is no such usage type"
    MethodNotAllowed METHOD_NOT_ALLOWED "method_not_allowed" "The path does not take this method"
    /// The first request with the key is still being worked on.
    KeyUnderWay CONFLICT "idempotency_key_under_way" "The request with this Idempotency-Key is not answered yet"
    BodyTimeout REQUEST_TIMEOUT "body_timeout" "The body took too long to arrive"
    TooLarge PAYLOAD_TOO_LARGE "too_large" "The request is too large"
    UnsupportedMediaType UNSUPPORTED_MEDIA_TYPE "unsupported_media_type" "The body is not of a type that is read here"
    KeyReused UNPROCESSABLE_ENTITY "idempotency_key_reused" "The Idempotency-Key belongs to another request"
    RateLimitExceeded TOO_MANY_REQUESTS "rate_limit_exceeded" "The limit of the plan is reached"
    /// Before anything else of the request was looked at.
    BurstLimitExceeded TOO_MANY_REQUESTS "burst_limit_exceeded" "Requests come too fast"
    Internal INTERNAL_SERVER_ERROR "internal_error" "Something went wrong here"
    UpgradeNotSupported NOT_IMPLEMENTED "upgrade_not_supported" "The connection cannot change its protocol"
    UpstreamUnreachable BAD_GATEWAY "upstream_unreachable" "The API behind the gateway cannot be reached"
    UpstreamInvalid BAD_GATEWAY "upstream_invalid_response" "The API behind the gateway gave no valid answer"
    /// Before anything was spent.
    KeyUnchecked SERVICE_UNAVAILABLE "authentication_unavailable" "The API key cannot be checked now"
    /// Before anything was spent.
    QuotaUnavailable SERVICE_UNAVAILABLE "quota_unavailable" "The quota cannot be asked now"
    /// Before anything was spent.
    RecordingUnavailable SERVICE_UNAVAILABLE "recording_unavailable" "Usage cannot be recorded now"
    /// After the upstream's answer; what was spent is given back.
    NotRecorded SERVICE_UNAVAILABLE "not_recorded" "The usage could not be recorded"
    UpstreamTimeout GATEWAY_TIMEOUT "upstream_timeout" "The API behind the gateway took too long"
    /// Counted at most once; whether it was is known later.
    OutcomeUnknown GATEWAY_TIMEOUT "outcome_unknown" "Whether the usage was recorded is not known yet"
}

impl Kind {
    /// For metrics: was the request admitted first?
    pub fn was_admitted(self) -> bool {
        use Kind::*;
        matches!(
            self,
            UpstreamUnreachable | UpstreamInvalid | UpstreamTimeout | NotRecorded | OutcomeUnknown | Internal
        )
    }

    /// Trying again soon may help.
    pub fn is_passing(self) -> bool {
        self.status() == StatusCode::SERVICE_UNAVAILABLE || self == Self::KeyUnderWay
    }

    /// The same body gets the same answer at any time: nothing but the body is wrong.
    pub fn is_of_the_body(self) -> bool {
        matches!(self, Self::InvalidRequest | Self::UnknownUsageType)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_told_apart() {
        let names: HashSet<_> = Kind::ALL.iter().map(|kind| kind.error()).collect();
        assert_eq!(names.len(), Kind::ALL.len());
        assert!(Kind::ALL.iter().all(|kind| kind.urn().ends_with(kind.error())));
    }
}
