//! The right time: what the machine's clock would show if it were right.
//!
//! The gateway compares its clock with those of PostgreSQL and NATS, at each lease and at each heartbeat. All requests are admitted and
//! stamped by the right time ([`schema::clock::now`]): the middle one of the three clocks, carried on by a monotonic clock. So a machine
//! whose clock jumps changes no stamp. While its clock is wrong by more than 30 seconds, the gateway admits nothing.
//!
//! | to find | open |
//! |---|---|
//! | which clock is right | [`protocol::clock`] |
//! | asking the servers | [`watch`] |

mod metrics;
pub mod watch;

use std::{
    sync::{
        Arc, LazyLock, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Instant,
};

use prometheus_client::registry::Registry;
use protocol::clock::{ALARM_MS, Answer, Origin, WRONG_MS, right};
use schema::clock;
use service::Health;
use time::OffsetDateTime;
use tracing::{error, info};

use self::metrics::ClockMetrics;

/// The part of `/readyz`.
const PART: &str = "clock";

/// The clocks that this gateway has heard of. Cheap to clone.
#[derive(Clone)]
pub struct Clocks {
    inner: Arc<Inner>,
}

struct Inner {
    heard: Mutex<Heard>,
    is_right: AtomicBool,
    health: Health,
    metrics: ClockMetrics,
}

#[derive(Default)]
struct Heard {
    postgres: Option<Origin>,
    nats: Option<Origin>,
    is_alarmed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    Postgres,
    Nats,
}

/// The beginning of the time line, on which all clocks are compared.
static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);
/// The origin of the right clock, in Unix milliseconds. A process has one time, so this is a static.
static RIGHT_MS: AtomicI64 = AtomicI64::new(UNKNOWN);
const UNKNOWN: i64 = i64::MIN;

impl Clocks {
    /// Nothing is admitted until a server was heard.
    pub fn new(health: Health, registry: &mut Registry) -> Self {
        health.down(PART, "not compared with PostgreSQL's clock yet");
        Self {
            inner: Arc::new(Inner {
                heard: Mutex::default(),
                is_right: AtomicBool::new(false),
                health,
                metrics: ClockMetrics::register(registry),
            }),
        }
    }

    /// Whether the machine's clock is right, so that requests may be admitted.
    pub fn is_right(&self) -> bool {
        self.inner.is_right.load(Ordering::Acquire)
    }

    /// What a server's clock showed.
    pub fn hear(&self, server: Server, answer: Answer) {
        let Some(last) = answer.origin() else {
            return;
        };
        let mut heard = self.inner.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let of_server = match server {
            Server::Postgres => &mut heard.postgres,
            Server::Nats => &mut heard.nats,
        };
        *of_server = Some(of_server.map_or(last, |before| before.after(last)));
        self.inner.judge(&mut heard);
    }

    /// Compares the machine's clock again: it may have jumped while no server answers.
    pub fn look(&self) {
        let mut heard = self.inner.heard.lock().unwrap_or_else(PoisonError::into_inner);
        if heard.postgres.is_some() || heard.nats.is_some() {
            self.inner.judge(&mut heard);
        }
    }
}

impl Inner {
    fn judge(&self, heard: &mut Heard) {
        let own_ms = clock::unix_ms(clock::machine()) - elapsed_ms();
        let right_ms = right(own_ms, heard.postgres, heard.nats);
        RIGHT_MS.store(right_ms, Ordering::Relaxed);
        let ahead_of = |origin: Origin| own_ms - origin.middle_ms();
        self.metrics.set(heard.postgres.map(ahead_of), heard.nats.map(ahead_of));
        let ahead_ms = own_ms - right_ms;
        let is_right = ahead_ms.unsigned_abs() <= WRONG_MS;
        let was_right = self.is_right.swap(is_right, Ordering::AcqRel);
        match is_right {
            true if !was_right => {
                info!(ahead_ms, "the clock is right: requests are admitted");
                self.health.up(PART);
            }
            true => {}
            false => self.health.down(PART, wrong(ahead_ms)),
        }
        let is_alarmed = ahead_ms.unsigned_abs() > ALARM_MS;
        if is_alarmed && !std::mem::replace(&mut heard.is_alarmed, is_alarmed) || !is_right && was_right {
            error!(ahead_ms, "{}: correct the clock of this machine", wrong(ahead_ms));
        }
        heard.is_alarmed = is_alarmed;
    }
}

fn wrong(ahead_ms: i64) -> String {
    let seconds = ahead_ms.unsigned_abs() / 1_000;
    let side = if ahead_ms > 0 { "ahead" } else { "behind" };
    let admits = match ahead_ms.unsigned_abs() > WRONG_MS {
        true => "; no request is admitted until it is right",
        false => "",
    };
    format!("the machine's clock is {seconds} s {side}{admits}")
}

/// From now on, the time of this process is the right time.
pub fn follow() {
    clock::correct(right_now);
}

/// Milliseconds on the time line.
pub fn elapsed_ms() -> i64 {
    i64::try_from(BEGINNING.elapsed().as_millis()).unwrap_or(i64::MAX)
}

fn right_now() -> OffsetDateTime {
    let right_ms = RIGHT_MS.load(Ordering::Relaxed);
    if right_ms == UNKNOWN {
        return clock::machine();
    }
    let elapsed_ns = i128::try_from(BEGINNING.elapsed().as_nanos()).unwrap_or(0);
    let at_ns = i128::from(right_ms) * 1_000_000 + elapsed_ns;
    // A server's clock is outside the calendar: the origin is refused then, because the machine's clock differs.
    OffsetDateTime::from_unix_timestamp_nanos(at_ns).unwrap_or_else(|_| clock::machine())
}
