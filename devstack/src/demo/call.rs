//! One request of the demo, and its outcome.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use http::Method;
use schema::EventId;
use serde_json::Value;

use super::skip::Skip;
use crate::admin::Customer;

#[derive(Clone, Debug)]
pub(super) struct Call {
    /// Index of the customer; `None`: sent without a valid key.
    pub customer: Option<usize>,
    pub usage_type: &'static str,
    pub units: i64,
    pub method: Method,
    /// Path and query.
    pub target: String,
    pub body: Option<Value>,
    /// The status that the upstream is asked to answer with.
    pub upstream_status: Option<u16>,
    /// The client's address and user agent, if the request carries them.
    pub client: Option<(IpAddr, String)>,
    pub outcome: Option<CallOutcome>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CallOutcome {
    /// Answered below 400: charged, and stored as this event.
    Accepted(EventId),
    /// Admitted, then failed: stored as this event with 0 units.
    Failed(EventId),
    /// Not admitted, with the problem's `error`, or the status where the answer has no problem body.
    Refused(String),
    /// `504 outcome_unknown`: stored once or not at all.
    Unknown,
    /// The gateway gave no HTTP answer, for this reason: stored once or not at all.
    Unanswered(String),
}

/// Everything that was sent, with its outcomes.
pub(super) struct Driven {
    pub customers: Vec<Customer>,
    pub calls: Vec<Call>,
    /// Lines of the replayed log that were not sent, by reason.
    pub skipped: BTreeMap<Skip, usize>,
    pub took: Duration,
}

impl Call {
    pub(super) fn new(customer: Option<usize>, usage_type: &'static str, method: Method, target: &str) -> Self {
        Self {
            customer,
            usage_type,
            units: 1,
            method,
            target: target.to_owned(),
            body: None,
            upstream_status: None,
            client: None,
            outcome: None,
        }
    }
}
