//! Decides when a failed delivery is retried, when a notice is given up, and when its endpoint is disabled. Pure.

/// Seconds between attempts: the schedule of Standard Webhooks, three days in total.
const DELAYS: [i64; 10] = [
    0,
    5,
    5 * 60,
    30 * 60,
    2 * 3_600,
    5 * 3_600,
    10 * 3_600,
    14 * 3_600,
    20 * 3_600,
    24 * 3_600,
];

/// An endpoint is disabled after five days without a success.
const ENDPOINT_PATIENCE_S: i64 = 5 * 24 * 3_600;

/// What happens after a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Retry after this many seconds.
    Again { after_s: i64 },
    /// The notice is given up.
    GiveUp,
    /// The endpoint is disabled, and its pending notices are given up.
    Disable,
}

/// `attempts`: so far, including this one. `failing_since`: of the endpoint, if earlier attempts failed. `jitter`: 0 to 1, so
/// that notices that failed together are not retried together.
pub fn after_failure(attempts: usize, failing_since: Option<i64>, now: i64, jitter: f64) -> Next {
    if failing_since.is_some_and(|since| now - since >= ENDPOINT_PATIENCE_S) {
        return Next::Disable;
    }
    let Some(delay) = DELAYS.get(attempts) else {
        return Next::GiveUp;
    };
    // Plus or minus one tenth.
    #[expect(clippy::cast_possible_truncation, reason = "a few days in seconds")]
    let after_s = (*delay as f64 * (0.9 + 0.2 * jitter)).round() as i64;
    Next::Again { after_s }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_is_given_up_after_ten_attempts_on_schedule() {
        let mut total = 0;
        for (attempts, delay) in DELAYS.into_iter().enumerate().skip(1) {
            let next = after_failure(attempts, None, 0, 0.5);
            assert_eq!(next, Next::Again { after_s: delay }, "after {attempts}");
            total += delay;
        }
        assert_eq!(total, 272_105, "3 days, 3 hours, 35 minutes, 5 seconds");
        assert_eq!(after_failure(10, None, 0, 0.5), Next::GiveUp);
    }

    #[test]
    fn jitter_is_a_tenth_and_never_sends_at_once() {
        assert_eq!(after_failure(2, None, 0, 0.0), Next::Again { after_s: 270 });
        assert_eq!(after_failure(2, None, 0, 1.0), Next::Again { after_s: 330 });
        assert_eq!(after_failure(1, None, 0, 0.0), Next::Again { after_s: 5 });
    }

    #[test]
    fn an_endpoint_that_failed_for_five_days_is_disabled() {
        let since = Some(1_000);
        let end = 1_000 + ENDPOINT_PATIENCE_S;
        assert_eq!(after_failure(1, since, end - 1, 0.5), Next::Again { after_s: 5 });
        assert_eq!(after_failure(1, since, end, 0.5), Next::Disable);
        assert_eq!(after_failure(10, since, end, 0.5), Next::Disable);
    }
}
