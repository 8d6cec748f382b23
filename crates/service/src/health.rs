//! The parts of a service, such as its connections: which are up, which are not, why, and since when.
//!
//! A part that was up and is not up any more is a log line, a line of `/readyz` and a metric, until it is up again.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge},
};
use schema::clock;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tracing::{info, warn};

/// A part that comes and goes is logged at most this often.
const LOG_EVERY: time::Duration = time::Duration::seconds(10);

/// The parts that must be up for the service to be ready, by name. Each part reports its own state.
#[derive(Clone, Debug, Default)]
pub struct Health {
    parts: Arc<Mutex<BTreeMap<&'static str, Part>>>,
    down: Family<PartLabel, Gauge>,
    is_optional: bool,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct PartLabel {
    part: &'static str,
}

#[derive(Clone, Debug)]
struct Part {
    state: State,
    /// Since when the part is up, or is not.
    since: OffsetDateTime,
    /// The service has worked with it. At a start, a part that is not up yet is nothing to report.
    was_up: bool,
    /// When it was last reported as not up.
    logged_at: Option<OffsetDateTime>,
    /// Its return must be logged, too.
    is_logged: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Up,
    /// The service does its job without the part, for some time.
    Replaced(String),
    Down(String),
}

impl Health {
    pub fn new() -> Self {
        Self::default()
    }

    /// The same parts, reported by somebody without whom the service does its job for some time: what is down is [`Self::replaced`].
    pub fn optional(&self) -> Self {
        Self {
            is_optional: true,
            ..self.clone()
        }
    }

    /// Marks the part as up.
    pub fn up(&self, part: &'static str) {
        self.set(part, State::Up, clock::now());
    }

    /// Marks the part as down, but the service as ready. `how` says how the service works without it.
    pub fn replaced(&self, part: &'static str, how: impl Into<String>) {
        self.set(part, State::Replaced(how.into()), clock::now());
    }

    /// Marks the part as down. `why` is shown on `/readyz`, so it must not contain a secret.
    pub fn down(&self, part: &'static str, why: impl Into<String>) {
        let state = match self.is_optional {
            true => State::Replaced(why.into()),
            false => State::Down(why.into()),
        };
        self.set(part, state, clock::now());
    }

    /// Marks the part as down, because the service ends. Nobody has to look, so it is not logged.
    pub fn ends(&self, part: &'static str) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(part) = parts.get_mut(part) {
            part.was_up = false;
        }
        drop(parts);
        self.down(part, "stopping");
    }

    /// 1 for each part that is down.
    pub fn down_parts(&self) -> Family<PartLabel, Gauge> {
        self.down.clone()
    }

    fn set(&self, name: &'static str, state: State, now: OffsetDateTime) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let part = parts.entry(name).or_insert_with(|| Part {
            state: State::Up,
            since: now,
            was_up: false,
            logged_at: None,
            is_logged: false,
        });
        let is_down = matches!(state, State::Down(_));
        self.down.get_or_create(&PartLabel { part: name }).set(is_down.into());
        if (part.state == State::Up) != (state == State::Up) {
            part.log(name, &state, now);
            part.since = now;
        }
        part.was_up |= state == State::Up;
        part.state = state;
    }

    /// Whether the service is ready, and a line for each part.
    pub fn report(&self) -> (bool, String) {
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let line = |(name, part): (&&str, &Part)| match &part.state {
            State::Up => format!("{name}: ok\n"),
            State::Replaced(text) | State::Down(text) => format!("{name}: {text} (since {})\n", shown(part.since)),
        };
        let is_down = |part: &Part| matches!(part.state, State::Down(_));
        (
            !parts.is_empty() && !parts.values().any(is_down),
            parts.iter().map(line).collect(),
        )
    }
}

impl Part {
    /// Logs that it goes or returns.
    fn log(&mut self, part: &str, next: &State, now: OffsetDateTime) {
        match next {
            State::Up => {
                if std::mem::take(&mut self.is_logged) {
                    info!(
                        part,
                        seconds = (now - self.since).whole_seconds(),
                        "the part is available again"
                    );
                }
            }
            State::Replaced(why) | State::Down(why) => {
                if self.was_up && self.logged_at.is_none_or(|at| now - at >= LOG_EVERY) {
                    (self.logged_at, self.is_logged) = (Some(now), true);
                    warn!(part, "a part is not available: {why}");
                }
            }
        }
    }
}

fn shown(at: OffsetDateTime) -> String {
    let second = at.replace_nanosecond(0).unwrap_or(at);
    second.format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn a_service_is_ready_when_every_part_is_up() {
        let (health, at) = (Health::new(), datetime!(2026-11-30 20:22:01.5 UTC));
        assert!(!health.report().0, "a service that has not said anything is not ready");
        health.set("nats", State::Up, at);
        health.set("postgres", State::Down("connecting".to_owned()), at);
        let report = "nats: ok\npostgres: connecting (since 2026-11-30T20:22:01Z)\n";
        assert_eq!(health.report(), (false, report.to_owned()));
        health.up("postgres");
        assert!(health.report().0);
        health.set(
            "nats",
            State::Replaced("unavailable, recording to the spool".to_owned()),
            at,
        );
        let report = "nats: unavailable, recording to the spool (since 2026-11-30T20:22:01Z)\npostgres: ok\n";
        assert_eq!(health.report(), (true, report.to_owned()));
        health.optional().down("stripe", "no answer");
        assert!(health.report().0 && health.report().1.contains("stripe: no answer (since "));
        health.ends("service");
        assert!(!health.report().0 && health.report().1.contains("service: stopping (since "));
    }

    #[test]
    fn a_part_is_down_since_it_was_last_up() {
        let (health, began) = (Health::new(), datetime!(2026-11-30 20:22:01 UTC));
        let down = |why: &str| State::Down(why.to_owned());
        let gauge = || health.down.get_or_create(&PartLabel { part: "clickhouse" }).get();
        health.set("clickhouse", State::Up, began - time::Duration::HOUR);
        assert_eq!(gauge(), 0);
        health.set("clickhouse", down("no answer"), began);
        health.set("clickhouse", down("too many parts"), began + time::Duration::MINUTE);
        assert_eq!(gauge(), 1);
        let report = health.report().1;
        assert_eq!(report, "clickhouse: too many parts (since 2026-11-30T20:22:01Z)\n");
    }

    #[test]
    fn the_loss_of_a_part_and_its_return_are_logged_but_not_too_often() {
        let (health, at) = (Health::new(), datetime!(2026-11-30 20:22:01 UTC));
        let second = |n: i64| at + time::Duration::seconds(n);
        let is_logged = || health.parts.lock().unwrap()["nats"].is_logged;
        health.set("nats", State::Down("connecting".to_owned()), at);
        assert!(!is_logged(), "at the start it was not up yet");
        health.set("nats", State::Up, at);
        health.set("nats", State::Down("disconnected".to_owned()), second(1));
        assert!(is_logged());
        health.set("nats", State::Up, second(2));
        health.set("nats", State::Down("disconnected".to_owned()), second(3));
        assert!(!is_logged(), "within ten seconds");
        health.set("nats", State::Up, second(4));
        health.set("nats", State::Down("disconnected".to_owned()), second(11));
        assert!(is_logged());
    }
}
