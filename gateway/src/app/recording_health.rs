//! Reports on the admin port whether requests can be recorded, and whether in the stream or in the spool.

use std::time::Duration;

use lane::{link::Link, spool::Spool};
use service::Health;
use tokio_util::sync::CancellationToken;

const CHECK_EVERY: Duration = Duration::from_millis(100);

pub(super) async fn report(link: Link, spool: Spool, health: Health, stopping: CancellationToken) {
    const PART: &str = "recording";
    const STREAM: &str = "stream";
    let mut was_direct = true;
    let mut ticks = tokio::time::interval(CHECK_EVERY);
    while stopping.run_until_cancelled(ticks.tick()).await.is_some() {
        let is_direct = link.is_up() && !spool.is_spooling();
        match (is_direct, link.is_up()) {
            (true, _) if was_direct => {}
            (true, _) => health.up(STREAM),
            (false, true) => health.replaced(STREAM, "waiting for the spool to be drained"),
            (false, false) => health.replaced(STREAM, "unavailable, recording to the spool"),
        }
        was_direct = is_direct;
        match spool.room().why_not() {
            Some(why) if !is_direct => health.down(PART, format!("NATS is unavailable, and {why}")),
            _ => health.up(PART),
        }
    }
}
