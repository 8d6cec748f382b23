//! Every accepted event is stored exactly once and as requested, no refused event is stored, an unknown event is stored at most
//! once, and no other event is stored.

use std::collections::HashMap;

use schema::EventId;

use super::{Violation, Violations};
use crate::faults::{
    evidence::{Evidence, Row},
    history::{Attempt, AttemptOutcome, RequestId},
};

pub(super) fn check(evidence: &Evidence, violations: &mut Violations) {
    let mut by_request: HashMap<RequestId, Vec<&Row>> = HashMap::new();
    let mut by_event: HashMap<EventId, Vec<&Row>> = HashMap::new();
    for row in &evidence.rows {
        match row.request {
            Some(request) => by_request.entry(request).or_default().push(row),
            None => violations.record(Violation::Invented, || format!("a row that no client sent: {row:?}")),
        }
        by_event.entry(row.event).or_default().push(row);
    }
    for (event, rows) in by_event.iter().filter(|(_, rows)| rows.len() > 1) {
        violations.record(Violation::Doubled, || {
            format!("{event} is stored {} times: {:?}", rows.len(), rows[0])
        });
    }
    // For an operation with several tries, one row covers all tries. It does not matter which try the row belongs to.
    let mut operations: HashMap<u32, Vec<&Attempt>> = HashMap::new();
    for attempt in &evidence.history {
        let rows = by_request.remove(&attempt.request).unwrap_or_default();
        for row in &rows {
            as_asked(evidence, attempt, row, violations);
        }
        match attempt.operation {
            Some(operation) => operations.entry(operation).or_default().push(attempt),
            None => alone(attempt, &rows, violations),
        }
        if rows.len() > 1 && rows.iter().any(|row| row.event != rows[0].event) {
            violations.record(Violation::Doubled, || {
                format!("{} is stored as {} different events", attempt.request, rows.len())
            });
        }
        if !rows.is_empty() && is_definite_no(attempt) {
            violations.record(Violation::Refused, || format!("{attempt:?} is stored as {:?}", rows[0]));
        }
    }
    for rows in by_request.values() {
        violations.record(Violation::Invented, || {
            format!("a row that no client sent: {:?}", rows[0])
        });
    }
    for tries in operations.values() {
        together(tries, &by_event, violations);
    }
}

/// An attempt that is the only try of its operation.
fn alone(attempt: &Attempt, rows: &[&Row], violations: &mut Violations) {
    match &attempt.outcome {
        AttemptOutcome::Accepted { event } => match rows {
            [] => violations.record(Violation::Lost, || format!("{attempt:?}")),
            [row, ..] if row.event != *event => violations.record(Violation::Different, || {
                format!("{attempt:?} was answered with {event} and is stored as {}", row.event)
            }),
            _ => {}
        },
        AttemptOutcome::Failed { .. }
        | AttemptOutcome::Refused { .. }
        | AttemptOutcome::Unknown(_)
        | AttemptOutcome::NotSent => {}
    }
}

/// Tries of one operation: one event, stored once if any try was accepted.
fn together(tries: &[&Attempt], by_event: &HashMap<EventId, Vec<&Row>>, violations: &mut Violations) {
    let accepted = tries.iter().filter_map(|attempt| match attempt.outcome {
        AttemptOutcome::Accepted { event } => Some((attempt, event)),
        _ => None,
    });
    let mut first: Option<EventId> = None;
    for (attempt, event) in accepted {
        if *first.get_or_insert(event) != event {
            violations.record(Violation::Doubled, || {
                format!("tries of one operation got different events: {attempt:?}")
            });
        }
        if !by_event.contains_key(&event) {
            violations.record(Violation::Lost, || format!("{attempt:?}"));
        }
    }
}

/// The client may rely on it that this request stored nothing. Another try of the same operation may have stored an event.
fn is_definite_no(attempt: &Attempt) -> bool {
    matches!(
        attempt.outcome,
        AttemptOutcome::Refused { .. } | AttemptOutcome::NotSent
    )
}

fn as_asked(evidence: &Evidence, attempt: &Attempt, row: &Row, violations: &mut Violations) {
    let units = match attempt.outcome {
        AttemptOutcome::Accepted { .. } => Some(attempt.cost),
        AttemptOutcome::Failed { .. } => Some(0),
        // The attempt may have been charged, or may have failed upstream.
        _ => Some(row.units).filter(|units| [0, attempt.cost].contains(units)),
    };
    let same = units == Some(row.units)
        && evidence.accounts.get(attempt.account) == Some(&row.account)
        && evidence.keys.get(attempt.key) == Some(&row.key)
        && evidence.usage_types.get(attempt.usage_type) == Some(&row.usage_type);
    if !same {
        violations.record(Violation::Different, || format!("{attempt:?} is stored as {row:?}"));
    }
}
