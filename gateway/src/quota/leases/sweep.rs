//! Gives back what nobody spends, and asks again for what could not be given back.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use service::Lifecycle;

use super::Desk;

/// Looks over all counters that hold leases until the service stops: one that spent nothing for `idle_after` is closed.
pub(crate) async fn sweep(desk: Arc<Desk>, idle_after: Duration, life: Lifecycle) {
    let mut ticks = tokio::time::interval((idle_after / 4).max(Duration::from_millis(10)));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => sweep_once(&desk, idle_after),
            () = life.stopping() => return,
        }
    }
}

fn sweep_once(desk: &Arc<Desk>, idle_after: Duration) {
    let now = Instant::now();
    for account in desk.all_holders() {
        for (usage_type, counter) in account.counters() {
            if counter.is_idle(now, idle_after) {
                desk.close(&account, usage_type);
            } else if counter.owes() {
                desk.attend(&account, usage_type);
            }
        }
        desk.holders().note(&account);
    }
}
