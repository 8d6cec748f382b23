//! Sends the demo's requests through all gateways and records every outcome. A failed request does not end the run.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures_util::{StreamExt, stream};
use http::{HeaderValue, Request, header};
use http_body_util::Full;
use hyper::body::Bytes;

use super::{
    call::{Call, CallOutcome},
    steps::Steps,
};
use crate::{
    admin::Customer,
    http::{Http, HttpResponse, request},
    system::System,
};

/// Requests in flight at a time.
const CONCURRENCY: usize = 64;

/// Sends all calls, a bounded number at a time, and says how long that took.
pub(super) async fn send(
    system: &System,
    customers: &[Customer],
    calls: Vec<Call>,
    steps: &Steps,
) -> (Vec<Call>, Duration) {
    let (http, started, of) = (Http::default(), Instant::now(), calls.len());
    let gateways = &system.gateways;
    let sent = stream::iter(calls.into_iter().enumerate()).map(|(n, mut call)| {
        let (http, url) = (http.clone(), &gateways[n % gateways.len()].url);
        async move {
            let key = call.customer.map_or("", |customer| &customers[customer].key);
            let answer = match message(url, key, &call) {
                Ok(message) => http.send(message).await,
                Err(error) => Err(error),
            };
            call.outcome = Some(match answer {
                Ok(answer) => outcome(&answer),
                Err(error) => CallOutcome::Unanswered(format!("{error:#}")),
            });
            call
        }
    });
    let mut done = 0;
    let calls = sent
        .buffer_unordered(CONCURRENCY)
        .inspect(|_| {
            done += 1;
            steps.progress(done, of);
        })
        .collect()
        .await;
    (calls, started.elapsed())
}

fn message(url: &str, key: &str, call: &Call) -> Result<Request<Full<Bytes>>> {
    let url = format!("{url}{}", call.target);
    let mut message = request(call.method.clone(), &url, key, call.body.as_ref())?;
    if let Some(status) = call.upstream_status {
        message.headers_mut().insert("x-demo-status", HeaderValue::from(status));
    }
    if let Some((address, agent)) = &call.client {
        message
            .headers_mut()
            .insert("x-forwarded-for", HeaderValue::try_from(address.to_string())?);
        let agent = HeaderValue::from_bytes(agent.as_bytes()).context("making the User-Agent header")?;
        message.headers_mut().insert(header::USER_AGENT, agent);
    }
    Ok(message)
}

fn outcome(answer: &HttpResponse) -> CallOutcome {
    let status = answer.status.as_u16();
    if let Some(event) = answer.header("usage-event-id") {
        return match event.parse() {
            Ok(event) if status < 400 => CallOutcome::Accepted(event),
            Ok(event) => CallOutcome::Failed(event),
            Err(_) => CallOutcome::Unanswered(format!("{status}: Usage-Event-Id `{event}` is not an event id")),
        };
    }
    let problem = answer.json().unwrap_or_default();
    match problem["error"].as_str() {
        Some("outcome_unknown") => CallOutcome::Unknown,
        Some(error) => CallOutcome::Refused(error.to_owned()),
        // A refused HEAD request has no body.
        None if (400..500).contains(&status) => CallOutcome::Refused(format!("status {status}")),
        None if status == 504 => CallOutcome::Unknown,
        None if status == 503 => CallOutcome::Refused(format!("status {status}")),
        None => CallOutcome::Unanswered(format!("{status} with neither an event id nor a problem")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, headers: &[(&'static str, &str)], body: &str) -> CallOutcome {
        let header = |(name, value): &(&'static str, &str)| {
            (
                header::HeaderName::from_static(name),
                HeaderValue::from_str(value).unwrap(),
            )
        };
        outcome(&HttpResponse {
            status: http::StatusCode::from_u16(status).unwrap(),
            headers: headers.iter().map(header).collect(),
            body: body.to_owned().into(),
        })
    }

    #[test]
    fn every_answer_is_an_outcome() {
        let id = "0195a3c4-5b6d-7e8f-9a0b-1c2d3e4f5a6b";
        let event = || id.parse().unwrap();
        assert_eq!(
            answer(200, &[("usage-event-id", id)], ""),
            CallOutcome::Accepted(event())
        );
        assert_eq!(answer(404, &[("usage-event-id", id)], ""), CallOutcome::Failed(event()));
        let refused = |reason: &str| CallOutcome::Refused(reason.to_owned());
        assert_eq!(
            answer(429, &[], r#"{"error":"rate_limit_exceeded"}"#),
            refused("rate_limit_exceeded")
        );
        assert_eq!(answer(429, &[], ""), refused("status 429"), "a HEAD request");
        assert_eq!(answer(431, &[], "no JSON"), refused("status 431"));
        assert_eq!(answer(504, &[], r#"{"error":"outcome_unknown"}"#), CallOutcome::Unknown);
        assert_eq!(answer(504, &[], ""), CallOutcome::Unknown, "a HEAD request");
        for (status, headers) in [(200, vec![]), (200, vec![("usage-event-id", "x")]), (500, vec![])] {
            assert!(
                matches!(answer(status, &headers, "{}"), CallOutcome::Unanswered(_)),
                "{status} {headers:?}"
            );
        }
    }
}
