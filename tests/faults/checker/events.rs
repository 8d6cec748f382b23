//! Every accepted event is stored exactly once and as requested, no refused event is stored, an unknown event is stored at most
//! once, and no event is stored that nobody sent.

use std::collections::HashMap;

use schema::EventId;

use super::{Crime, Verdict};
use crate::faults::{
    evidence::{Evidence, Row},
    history::{Attempt, Outcome, RequestId},
};

pub fn check(evidence: &Evidence, verdict: &mut Verdict) {
    let mut by_request: HashMap<RequestId, Vec<&Row>> = HashMap::new();
    let mut by_event: HashMap<EventId, Vec<&Row>> = HashMap::new();
    for row in &evidence.rows {
        match row.request {
            Some(request) => by_request.entry(request).or_default().push(row),
            None => verdict.convict(Crime::Invented, || format!("a row that no client sent: {row:?}")),
        }
        by_event.entry(row.event).or_default().push(row);
    }
    for (event, rows) in by_event.iter().filter(|(_, rows)| rows.len() > 1) {
        verdict.convict(Crime::Doubled, || {
            format!("{event} is stored {} times: {:?}", rows.len(), rows[0])
        });
    }
    // For an operation with several tries, one row covers all tries. It does not matter which try the row belongs to.
    let mut operations: HashMap<u32, Vec<&Attempt>> = HashMap::new();
    for attempt in &evidence.history {
        let rows = by_request.remove(&attempt.request).unwrap_or_default();
        for row in &rows {
            as_asked(evidence, attempt, row, verdict);
        }
        match attempt.operation {
            Some(operation) => operations.entry(operation).or_default().push(attempt),
            None => alone(attempt, &rows, verdict),
        }
        if rows.len() > 1 && rows.iter().any(|row| row.event != rows[0].event) {
            verdict.convict(Crime::Doubled, || {
                format!("{} is stored as {} different events", attempt.request, rows.len())
            });
        }
        if !rows.is_empty() && is_definite_no(attempt) {
            verdict.convict(Crime::Refused, || format!("{attempt:?} is stored as {:?}", rows[0]));
        }
    }
    for rows in by_request.values() {
        verdict.convict(Crime::Invented, || format!("a row that no client sent: {:?}", rows[0]));
    }
    for tries in operations.values() {
        together(tries, &by_event, verdict);
    }
}

/// An attempt that is the only try of its operation.
fn alone(attempt: &Attempt, rows: &[&Row], verdict: &mut Verdict) {
    match &attempt.outcome {
        Outcome::Accepted { event } => match rows {
            [] => verdict.convict(Crime::Lost, || format!("{attempt:?}")),
            [row, ..] if row.event != *event => verdict.convict(Crime::Different, || {
                format!("{attempt:?} was told {event} and is stored as {}", row.event)
            }),
            _ => {}
        },
        Outcome::Failed { .. } | Outcome::Refused { .. } | Outcome::Unknown(_) | Outcome::NotSent => {}
    }
}

/// Tries of one operation: one event, stored once if any try was accepted.
fn together(tries: &[&Attempt], by_event: &HashMap<EventId, Vec<&Row>>, verdict: &mut Verdict) {
    let told = tries.iter().filter_map(|attempt| match attempt.outcome {
        Outcome::Accepted { event } => Some((attempt, event)),
        _ => None,
    });
    let mut first: Option<EventId> = None;
    for (attempt, event) in told {
        if *first.get_or_insert(event) != event {
            verdict.convict(Crime::Doubled, || {
                format!("tries of one operation got different events: {attempt:?}")
            });
        }
        if !by_event.contains_key(&event) {
            verdict.convict(Crime::Lost, || format!("{attempt:?}"));
        }
    }
}

/// The client may rely on it that this request stored nothing. Another try of the same operation may have stored an event.
fn is_definite_no(attempt: &Attempt) -> bool {
    matches!(attempt.outcome, Outcome::Refused { .. } | Outcome::NotSent)
}

fn as_asked(evidence: &Evidence, attempt: &Attempt, row: &Row, verdict: &mut Verdict) {
    let units = match attempt.outcome {
        Outcome::Accepted { .. } => Some(attempt.cost),
        Outcome::Failed { .. } => Some(0),
        // The attempt may have been charged, or may have failed upstream.
        _ => Some(row.units).filter(|units| [0, attempt.cost].contains(units)),
    };
    let same = units == Some(row.units)
        && evidence.accounts.get(attempt.account) == Some(&row.account)
        && evidence.keys.get(attempt.key) == Some(&row.key)
        && evidence.usage_types.get(attempt.usage_type) == Some(&row.usage_type);
    if !same {
        verdict.convict(Crime::Different, || format!("{attempt:?} is stored as {row:?}"));
    }
}
