//! A machine with a wrong clock, for the services that tests start.

use std::{
    path::PathBuf,
    sync::{Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use time::OffsetDateTime;

/// The file that has the milliseconds by which the clock is wrong. Without it, or a number in it, the clock is right.
pub const WRONG_CLOCK_FILE: &str = "WRONG_CLOCK_FILE";

const READ_EVERY: Duration = Duration::from_millis(100);

static FILE: OnceLock<PathBuf> = OnceLock::new();
/// What the file said, and when it was read.
static WRONG_BY: Mutex<Option<(Instant, i64)>> = Mutex::new(None);

/// Lets this process read the wrong clock, if the environment names a file. The services themselves have no such setting: only the
/// executables of tests call this.
pub fn inject() {
    if let Some(file) = std::env::var_os(WRONG_CLOCK_FILE) {
        FILE.set(file.into()).ok();
        schema::clock::inject(now);
    }
}

#[expect(clippy::disallowed_methods, reason = "it replaces the clock that the rule points to")]
fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc() + time::Duration::milliseconds(wrong_by_ms())
}

fn wrong_by_ms() -> i64 {
    let mut wrong_by = WRONG_BY.lock().unwrap_or_else(PoisonError::into_inner);
    match *wrong_by {
        Some((read_at, ms)) if read_at.elapsed() < READ_EVERY => ms,
        _ => {
            let text = FILE.get().and_then(|file| std::fs::read_to_string(file).ok());
            let ms = text.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
            *wrong_by = Some((Instant::now(), ms));
            ms
        }
    }
}
