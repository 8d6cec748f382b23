//! Hand-made histories with known violations. The checker must report exactly these.

use harness::faults::{
    checker::{self, Figures, Violation, Violations},
    evidence::{Evidence, Lease, Pool, Position, ReportedLine, Revocation, Row},
    history::{Attempt, AttemptOutcome, Doubt, RequestId, Way},
    limits::{Change, Limits},
    timeline::{LOST_MS, Timeline, Trouble},
};
use schema::{AccountId, EventId, KeyId, LeaseId};

const PERIOD: i64 = 1_800_000_000;
const LIMIT: i64 = 100;

/// One account with one key, ten accepted requests of ten units each, and the matching contents of the stores.
fn correct() -> Evidence {
    let (account, key, lease) = (AccountId::new(), KeyId::new(), LeaseId::new());
    let mut evidence = Evidence {
        accounts: vec![account],
        keys: vec![key],
        usage_types: vec!["api_call".to_owned()],
        steady: [0].into(),
        settled_ms: 1_000,
        ..Evidence::default()
    };
    evidence.limits.begin(0, 0, LIMIT);
    for n in 0..10 {
        let event = EventId::new();
        evidence.history.push(attempt(n, AttemptOutcome::Accepted { event }));
        let position = Position {
            shard: 0,
            seq: u64::from(n) + 2,
            idx: 0,
        };
        evidence.rows.push(Row {
            request: Some(RequestId { call: n, item: 0 }),
            event,
            account,
            key,
            usage_type: "api_call".to_owned(),
            units: 10,
            period_start: PERIOD,
            lease,
            position,
        });
        evidence.stream.events.insert(position, event);
    }
    evidence.stream.shards = vec![(11, 11, false)];
    evidence.stream.whole_from = [(0, 3)].into();
    evidence.pools.push(Pool {
        account,
        usage_type: "api_call".to_owned(),
        period_start: PERIOD,
        granted: 100,
    });
    evidence.reported.push(ReportedLine {
        name: "a line".to_owned(),
        stripe: 100,
        counted: 100,
    });
    evidence
}

/// The n-th attempt. Attempts do not overlap.
fn attempt(n: u32, outcome: AttemptOutcome) -> Attempt {
    Attempt {
        request: RequestId { call: n, item: 0 },
        way: Way::Usage,
        gateway: 0,
        account: 0,
        key: 0,
        usage_type: 0,
        cost: 10,
        operation: None,
        invoked_ms: i64::from(n) * 100,
        completed_ms: i64::from(n) * 100 + 50,
        outcome,
    }
}

fn check(evidence: &Evidence) -> (Violations, Figures) {
    checker::check(evidence)
}

/// Asserts that the checker reports exactly these kinds of violations.
#[track_caller]
fn assert_violations(evidence: &Evidence, of: &[Violation]) {
    let violations = check(evidence).0;
    let found: Vec<Violation> = violations.counts.keys().copied().collect();
    assert_eq!(found, of, "{:#?}", violations.examples);
}

fn refused(status: u16, error: &str) -> AttemptOutcome {
    AttemptOutcome::Refused {
        status,
        error: error.to_owned(),
    }
}

/// Changes the stores as if the n-th event had never reached the stream.
fn unstore(evidence: &mut Evidence, n: usize) {
    let row = evidence.rows.remove(n);
    evidence.stream.events.remove(&row.position);
    evidence.pools[0].granted -= row.units;
}

#[test]
fn a_correct_history_has_no_violation() {
    let (violations, figures) = check(&correct());
    assert!(violations.is_clean(), "{:#?}", violations.examples);
    assert_eq!((figures.requests, figures.accepted), (10, 10));
    assert_eq!(figures.all_unavailable_ms, 100);
}

#[test]
fn an_accepted_event_that_is_not_stored_is_lost() {
    let mut evidence = correct();
    unstore(&mut evidence, 4);
    assert_violations(&evidence, &[Violation::Lost]);
}

#[test]
fn an_event_that_is_stored_twice_is_doubled() {
    let mut evidence = correct();
    let mut again = evidence.rows[4].clone();
    again.position.seq = 12;
    evidence.stream.events.insert(again.position, again.event);
    evidence.stream.shards = vec![(12, 12, false)];
    evidence.rows.push(again);
    evidence.pools[0].granted += 10;
    assert_violations(&evidence, &[Violation::Doubled]);
    // The same range inserted twice: the stream shows nothing of it.
    let mut evidence = correct();
    evidence.rows.push(evidence.rows[4].clone());
    evidence.pools[0].granted += 10;
    assert_violations(&evidence, &[Violation::Doubled]);
}

#[test]
fn a_row_that_no_client_sent_is_invented() {
    for request in [None, Some(RequestId { call: 77, item: 0 })] {
        let mut evidence = correct();
        evidence.history[9].outcome = refused(429, "rate_limit_exceeded");
        unstore(&mut evidence, 9);
        let mut row = evidence.rows[0].clone();
        (row.request, row.event, row.position.seq) = (request, EventId::new(), 11);
        evidence.stream.events.insert(row.position, row.event);
        evidence.pools[0].granted += 10;
        evidence.rows.push(row);
        assert_violations(&evidence, &[Violation::Invented]);
    }
}

#[test]
fn a_refused_event_is_not_stored_and_an_unknown_one_at_most_once() {
    for no in [
        refused(503, "recording_unavailable"),
        refused(401, "invalid_api_key"),
        AttemptOutcome::NotSent,
    ] {
        let mut evidence = correct();
        evidence.history[3].outcome = no;
        assert_violations(&evidence, &[Violation::Refused]);
        unstore(&mut evidence, 3);
        assert_violations(&evidence, &[]);
    }
    let mut evidence = correct();
    evidence.history[3].outcome = AttemptOutcome::Unknown(Doubt::ConnectionLost);
    assert_violations(&evidence, &[]);
    unstore(&mut evidence, 3);
    assert_violations(&evidence, &[]);
}

#[test]
fn a_failure_is_stored_at_most_once_and_without_units() {
    let mut evidence = correct();
    let event = evidence.rows[3].event;
    evidence.history[3].outcome = AttemptOutcome::Failed { event, status: 500 };
    assert_violations(&evidence, &[Violation::Different]);
    evidence.rows[3].units = 0;
    evidence.pools[0].granted -= 10;
    assert_violations(&evidence, &[]);
    unstore(&mut evidence, 3);
    assert_violations(&evidence, &[]);
}

#[test]
fn a_row_matches_its_request() {
    let falsify: [fn(&mut Row); 3] = [
        |row| row.key = KeyId::new(),
        |row| row.units = 9,
        |row| row.event = EventId::new(),
    ];
    for falsify in falsify {
        let mut evidence = correct();
        falsify(&mut evidence.rows[2]);
        evidence.pools[0].granted = evidence.rows.iter().map(|row| row.units).sum();
        let row = evidence.rows[2].clone();
        evidence.stream.events.insert(row.position, row.event);
        assert_violations(&evidence, &[Violation::Different]);
    }
}

#[test]
fn tries_of_one_operation_are_one_event() {
    let mut evidence = correct();
    // The second try was answered with the event of the first one.
    let event = evidence.rows[8].event;
    evidence.history[9].outcome = AttemptOutcome::Accepted { event };
    (evidence.history[8].operation, evidence.history[9].operation) = (Some(8), Some(8));
    unstore(&mut evidence, 9);
    assert_violations(&evidence, &[]);
    evidence.history[9].outcome = refused(409, "request_in_progress");
    assert_violations(&evidence, &[]);
    evidence.history[9].outcome = AttemptOutcome::Accepted { event: EventId::new() };
    assert_violations(&evidence, &[Violation::Lost, Violation::Doubled]);
    evidence.history[9].outcome = AttemptOutcome::Accepted { event };
    unstore(&mut evidence, 8);
    assert_violations(&evidence, &[Violation::Lost]);
}

#[test]
fn a_request_past_the_limit_is_over_admitted() {
    let mut evidence = correct();
    evidence.limits = Limits::default();
    evidence.limits.begin(0, 0, LIMIT - 1);
    assert_violations(&evidence, &[Violation::OverAdmitted]);
}

#[test]
fn a_lower_limit_applies_once_the_gateway_must_know_it() {
    let lowered_at = |completed_ms| {
        let mut evidence = correct();
        let (usage_type, limit, invoked_ms) = (0, 50, completed_ms);
        evidence.limits.change(Change {
            account: 0,
            usage_type,
            limit,
            invoked_ms,
            completed_ms: Some(completed_ms),
        });
        evidence
    };
    // The sixth request began at 500 ms, the last at 900.
    assert_violations(&lowered_at(0), &[]);
    assert_violations(&lowered_at(-101), &[Violation::OverAdmitted]);
    let mut deaf = lowered_at(-101);
    let number = deaf.timeline.begin(Some(0), Trouble::Deaf, -200);
    deaf.timeline.end(number, -150);
    assert_violations(&deaf, &[]);
    let mut other = lowered_at(-101);
    other.timeline.begin(Some(1), Trouble::Deaf, -200);
    assert_violations(&other, &[Violation::OverAdmitted]);
    // The limit may have been raised again, with an unknown outcome.
    let mut raised = lowered_at(-101);
    raised.limits.change(Change {
        account: 0,
        usage_type: 0,
        limit: LIMIT,
        invoked_ms: -50,
        completed_ms: None,
    });
    assert_violations(&raised, &[]);
}

#[test]
fn a_request_accepted_after_the_revocation_is_late() {
    let revoked_at = |completed_ms| {
        let mut evidence = correct();
        evidence.revocations.push(Revocation { key: 0, completed_ms });
        evidence
    };
    assert_violations(&revoked_at(-100), &[]);
    assert_violations(&revoked_at(-101), &[Violation::Late]);
    let mut stopped = revoked_at(-101);
    stopped.timeline.begin(Some(0), Trouble::Stopped, -500);
    assert_violations(&stopped, &[]);
}

#[test]
fn units_are_spent_or_held() {
    let mut evidence = correct();
    evidence.pools[0].granted = 101;
    assert_violations(&evidence, &[Violation::PoolDrift]);
    let lease = Lease {
        id: evidence.rows[0].lease,
        gateway: "gateway-1".to_owned(),
        account: evidence.accounts[0],
        usage_type: "api_call".to_owned(),
        period_start: PERIOD,
        units: 101,
        is_live: true,
    };
    evidence.leases.push(lease);
    assert_violations(&evidence, &[]);
    evidence.leases[0].is_live = false;
    assert_violations(&evidence, &[Violation::PoolDrift]);
    // Spent on a duplicate. Its unit was returned to the pool.
    let position = Position {
        shard: 0,
        seq: 13,
        idx: 0,
    };
    let paid = (evidence.leases[0].id, 1);
    evidence.stream.dropped.insert(position, paid);
    evidence.pools[0].granted = 100;
    assert_violations(&evidence, &[]);
    evidence.leases[0].units = 99;
    assert_violations(&evidence, &[Violation::PoolDrift]);
    evidence.leases.clear();
    evidence.pools.clear();
    assert_violations(&evidence, &[Violation::PoolDrift]);
}

#[test]
fn every_position_is_a_row_or_dropped() {
    let mut evidence = correct();
    let position = Position {
        shard: 0,
        seq: 12,
        idx: 3,
    };
    evidence.stream.events.insert(position, EventId::new());
    assert_violations(&evidence, &[Violation::Position]);
    evidence.stream.dropped.insert(position, (LeaseId::NIL, 10));
    assert_violations(&evidence, &[]);
    for shard in [(12, 11, false), (11, 11, true)] {
        let mut evidence = correct();
        evidence.stream.shards = vec![shard];
        assert_violations(&evidence, &[Violation::Position]);
    }
    let mut evidence = correct();
    let position = evidence.rows[5].position;
    evidence.stream.events.remove(&position);
    assert_violations(&evidence, &[Violation::Position]);
    // A trim keeps the last record of each lane, so a gap may follow it.
    evidence.stream.whole_from = [(0, position.seq + 1)].into();
    assert_violations(&evidence, &[]);
}

#[test]
fn stripe_has_the_counted_units() {
    let mut evidence = correct();
    evidence.reported[0].stripe = 99;
    assert_violations(&evidence, &[Violation::StripeDrift]);
}

#[test]
fn a_refusal_is_false_if_units_were_left_and_nothing_was_in_trouble() {
    let mut evidence = correct();
    evidence.history[9].outcome = refused(429, "rate_limit_exceeded");
    unstore(&mut evidence, 9);
    let counted = |evidence: &Evidence| {
        let (violations, figures) = check(evidence);
        assert!(violations.is_clean(), "{:?}", violations.examples);
        (figures.falsely_refused, figures.refused_while_troubled)
    };
    assert_eq!(counted(&evidence), (1, 0), "90 of 100 were spent");
    let mut troubled = evidence.clone();
    let number = troubled.timeline.begin(None, Trouble::Elsewhere, 0);
    troubled.timeline.end(number, 10);
    assert_eq!(counted(&troubled), (0, 1));
    // Ten more units may have been reserved by a request with an unknown outcome.
    let mut unknown = evidence.clone();
    let mut other = attempt(8, AttemptOutcome::Unknown(Doubt::HungUp));
    other.request.call = 20;
    unknown.history.push(other);
    assert_eq!(counted(&unknown), (0, 0));
    evidence.steady.clear();
    assert_eq!(counted(&evidence), (0, 0));
}

#[test]
fn a_gateway_learns_of_a_change_within_a_second_unless_it_is_in_trouble() {
    let mut timeline = Timeline::default();
    assert_eq!(timeline.heard_by(0, 0), 1_000);
    let number = timeline.begin(Some(0), Trouble::Deaf, 500);
    timeline.end(number, 600);
    assert_eq!(timeline.heard_by(0, 0), LOST_MS);
    assert_eq!(timeline.heard_by(1, 0), 1_000);
    assert_eq!(timeline.heard_by(0, 21_000), 22_000, "the gateway recovered long ago");
    let number = timeline.begin(Some(1), Trouble::Stopped, 900);
    timeline.end(number, 10_900);
    let (stop, aftermath) = (10_000, 20_000);
    assert_eq!(timeline.heard_by(1, 0), LOST_MS + stop + aftermath);
    timeline.begin(None, Trouble::Blind, 0);
    assert_eq!(timeline.heard_by(2, 0), i64::MAX, "the trouble never ended");
}
