//! What a rehearsal has compared and seen.

use std::fmt::Display;

use serde::Serialize;
use tracing::{info, warn};

#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Which plans were rehearsed, for people.
    pub plans: String,
    /// `None`: it was deleted.
    pub test_clock: Option<String>,
    pub rows: Vec<Row>,
    pub questions: Vec<Answer>,
}

/// One line of an invoice, or another fact that the worker and Stripe must agree on.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub step: &'static str,
    pub what: String,
    pub ours: String,
    pub stripe: String,
    pub state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Ok,
    Different,
}

/// What was seen about a question that Stripe's documentation leaves open.
#[derive(Clone, Debug, Serialize)]
pub struct Answer {
    pub question: &'static str,
    pub seen: String,
}

impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Different => "different",
        }
    }
}

impl Report {
    pub fn differences(&self) -> usize {
        self.rows.iter().filter(|row| row.state == State::Different).count()
    }

    pub(super) fn compare(&mut self, step: &'static str, what: impl Display, ours: impl Display, stripe: impl Display) {
        let (what, ours, stripe) = (what.to_string(), ours.to_string(), stripe.to_string());
        let state = if ours == stripe { State::Ok } else { State::Different };
        match state {
            State::Ok => info!(step, what, amount = ours, "equal"),
            State::Different => warn!(step, what, ours, stripe, "different"),
        }
        self.rows.push(Row {
            step,
            what,
            ours,
            stripe,
            state,
        });
    }

    pub(super) fn saw(&mut self, question: &'static str, seen: impl Display) {
        let seen = seen.to_string();
        self.questions.push(Answer { question, seen });
    }
}

/// Cents, as an amount of the currency's main unit.
pub(super) fn money(cents: i64) -> String {
    let sign = if cents < 0 { "-" } else { "" };
    let cents = cents.unsigned_abs();
    format!("{sign}{}.{:02}", cents / 100, cents % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_two_digits_of_cents_and_one_sign() {
        assert_eq!(
            [0, 5, -5, -2_900, 123_456].map(money),
            ["0.00", "0.05", "-0.05", "-29.00", "1234.56"]
        );
    }
}
