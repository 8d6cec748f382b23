//! Which clock is right: the machine's own, PostgreSQL's or NATS'. No I/O, and no clock is read here.
//!
//! All clocks are compared on one time line that never jumps: the milliseconds since the start of the process, which a monotonic clock
//! counts. What a clock shows at its beginning, or would have shown, is the clock's **origin** (Unix milliseconds). Clocks that agree
//! have the same origin, whenever each of them was read.
//!
//! # Promise
//! If two of the three clocks agree, [`right`] is between these two, whatever the third one shows.

/// From this error on, an operator must correct the clock.
pub const ALARM_MS: u64 = 2_000;
/// Above this error, nothing is admitted.
pub const WRONG_MS: u64 = 30_000;
/// An answer that took longer says too little.
pub const ANSWER_MAX_MS: i64 = 1_000;

/// What a server's clock showed, and when it was asked and had answered on the time line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    pub asked_ms: i64,
    pub answered_ms: i64,
    /// Unix milliseconds.
    pub shown_ms: i64,
}

/// The origin of a server's clock, as far as answers show it: it is between the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    least_ms: i64,
    most_ms: i64,
}

impl Answer {
    /// `None`: it took too long.
    pub fn origin(self) -> Option<Origin> {
        let took = self.answered_ms.saturating_sub(self.asked_ms);
        // The server read its clock between the two moments.
        (0..=ANSWER_MAX_MS).contains(&took).then(|| Origin {
            least_ms: self.shown_ms.saturating_sub(self.answered_ms),
            most_ms: self.shown_ms.saturating_sub(self.asked_ms),
        })
    }
}

impl Origin {
    /// The origin after another answer. Answers that agree narrow it. If they do not, the server's clock was set: the last one counts.
    pub fn after(self, last: Self) -> Self {
        let (least_ms, most_ms) = (self.least_ms.max(last.least_ms), self.most_ms.min(last.most_ms));
        match least_ms <= most_ms {
            true => Self { least_ms, most_ms },
            false => last,
        }
    }

    /// The best estimate.
    pub fn middle_ms(self) -> i64 {
        self.least_ms + (self.most_ms - self.least_ms) / 2
    }
}

/// The origin of the right clock, from the origins of the machine's own clock and of the servers' clocks (`None`: not heard of yet): the
/// middle one of three, the server's of two.
pub fn right(own_ms: i64, postgres: Option<Origin>, nats: Option<Origin>) -> i64 {
    match (postgres.map(Origin::middle_ms), nats.map(Origin::middle_ms)) {
        (None, None) => own_ms,
        (Some(server), None) | (None, Some(server)) => server,
        (Some(postgres), Some(nats)) => {
            let mut all = [own_ms, postgres, nats];
            all.sort_unstable();
            all[1]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: i64 = 1_800_000_000_000;

    fn origin(ms: i64) -> Origin {
        let answer = Answer {
            asked_ms: 100,
            answered_ms: 100,
            shown_ms: ms + 100,
        };
        answer.origin().unwrap()
    }

    #[test]
    fn one_wrong_clock_of_three_changes_nothing() {
        const YEARS: i64 = 300 * 365 * 86_400_000;
        for wrong in [-YEARS, -60_000, 60_000, YEARS] {
            for (own, postgres, nats) in [(wrong, 0, 1), (0, wrong, 1), (0, 1, wrong)] {
                let right = right(NOW + own, Some(origin(NOW + postgres)), Some(origin(NOW + nats)));
                assert!((NOW..=NOW + 1).contains(&right), "{own} {postgres} {nats}");
            }
        }
    }

    #[test]
    fn a_server_is_right_before_the_machine() {
        assert_eq!(right(NOW, None, None), NOW);
        assert_eq!(right(NOW + 5, Some(origin(NOW)), None), NOW);
        assert_eq!(right(NOW + 5, None, Some(origin(NOW))), NOW);
    }

    #[test]
    fn a_server_whose_clock_is_set_is_followed() {
        let before = origin(NOW);
        assert_eq!(before.after(origin(NOW + 60_000)).middle_ms(), NOW + 60_000);
    }

    #[test]
    fn slow_answers_say_nothing() {
        let answer = |answered_ms| Answer {
            asked_ms: 0,
            answered_ms,
            shown_ms: NOW,
        };
        assert!(answer(ANSWER_MAX_MS).origin().is_some());
        assert!(answer(ANSWER_MAX_MS + 1).origin().is_none());
        assert!(answer(-1).origin().is_none());
    }

    proptest! {
        #[test]
        fn answers_of_a_right_clock_narrow_its_origin(
            delays in proptest::collection::vec((0i64..400, 0i64..400), 1..20),
        ) {
            let (mut at, mut origin) = (0, None::<Origin>);
            for (there, back) in delays {
                let answer = Answer { asked_ms: at, answered_ms: at + there + back, shown_ms: NOW + at + there };
                let last = answer.origin().unwrap();
                let narrowed = origin.map_or(last, |before| before.after(last));
                prop_assert!(narrowed.least_ms <= NOW && NOW <= narrowed.most_ms);
                prop_assert!(narrowed.most_ms - narrowed.least_ms <= last.most_ms - last.least_ms);
                origin = Some(narrowed);
                at += 5_000;
            }
        }
    }
}
