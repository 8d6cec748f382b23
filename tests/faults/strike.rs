//! Executes the plan: starts each fault, ends it, and records it as trouble while it lasts.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use async_nats::jetstream;
use devstack::stripe_double::{FaultKind, FaultRule, WebhookBehavior};
use schema::names;
use tokio::time::{sleep, timeout};

use super::{
    load::Load,
    operator::Operator,
    plan::{Blow, Fault, Part, Shortage, Step, Store, StripeFault},
    proxy::Weather,
    stopwatch::Stopwatch,
    system::Reach,
    timeline::{Timeline, Trouble},
};

/// Longer than a service's own shutdown deadline.
const STOP_WITHIN: Duration = Duration::from_secs(30);
/// How long a part may take from its start until it is ready, if everything that it needs is available.
pub const READY_WITHIN: Duration = Duration::from_secs(60);
/// The polling interval of the keeper.
const LOOK: Duration = Duration::from_millis(100);

pub struct Striker {
    pub reach: Arc<Reach>,
    pub operator: Arc<Operator>,
    pub load: Load,
    pub stopwatch: Stopwatch,
    pub timeline: Arc<Mutex<Timeline>>,
    /// Number of injected faults, by kind.
    pub struck: Arc<Mutex<BTreeMap<&'static str, u64>>>,
    /// Services that exited although the suite did not stop them.
    pub gave_up: Arc<Mutex<Vec<String>>>,
}

impl Striker {
    /// Starts the fault, holds it, and ends it.
    pub async fn strike(&self, step: Step) -> Result<()> {
        let kind = step.fault.kind();
        *self
            .struck
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(kind)
            .or_default() += 1;
        let trouble = self.begin(&step.fault);
        let done = match step.fault {
            Fault::Service(part, blow) => self.service(part, blow, step.hold).await,
            Fault::Server(store, blow) => self.server(store, blow, step.hold).await,
            Fault::Link(part, store, weather) => {
                self.reach.links[&(part, store)].set(weather);
                sleep(step.hold).await;
                self.reach.links[&(part, store)].set(Weather::Clear);
                Ok(())
            }
            Fault::Torn(part, store, weather) => self.tear(part, store, weather, step.hold).await,
            Fault::StreamFull => self.stream_full(step.hold).await,
            Fault::SpoolFull(n, shortage) => self.spool_full(n, shortage, step.hold).await,
            Fault::Clock(n, ms) => turn_clock(self.reach.clock_file(n), ms, step.hold).await,
            Fault::Stripe(fault) => {
                self.stripe(fault, step.hold).await;
                Ok(())
            }
            Fault::Limit => {
                self.operator.change_limit().await;
                Ok(())
            }
            Fault::PlanChange => {
                self.operator.change_plan().await;
                Ok(())
            }
            Fault::Revocation => self.operator.revoke().await,
        };
        if let Some(number) = trouble {
            let now = self.stopwatch.now_ms();
            self.timeline
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .end(number, now);
        }
        done.with_context(|| format!("striking: {step}"))
    }

    fn begin(&self, fault: &Fault) -> Option<usize> {
        let (gateway, trouble) = match fault {
            Fault::Limit | Fault::PlanChange | Fault::Revocation | Fault::Stripe(_) => return None,
            Fault::Service(Part::Gateway(n), _) | Fault::Torn(Part::Gateway(n), ..) => (Some(n - 1), Trouble::Stopped),
            Fault::Link(Part::Gateway(n), Store::Nats, _) | Fault::SpoolFull(n, _) => (Some(n - 1), Trouble::Deaf),
            Fault::Link(Part::Gateway(n), _, _) => (Some(n - 1), Trouble::Blind),
            // Announcements are lost or late for every gateway.
            Fault::Link(Part::Billing(_), Store::Nats, _) | Fault::Server(Store::Nats, _) => (None, Trouble::Deaf),
            Fault::Server(Store::Postgres, _) => (None, Trouble::Blind),
            _ => (None, Trouble::Elsewhere),
        };
        let mut timeline = self.timeline.lock().unwrap_or_else(PoisonError::into_inner);
        Some(timeline.begin(gateway, trouble, self.stopwatch.now_ms()))
    }

    async fn service(&self, part: Part, blow: Blow, hold: Duration) -> Result<()> {
        let handle = &self.reach.services[&part];
        match blow {
            Blow::Pause => {
                // The service may have exited on its own just now.
                if handle.service.lock().await.pause().is_ok() {
                    sleep(hold).await;
                    handle.service.lock().await.resume().ok();
                }
                return Ok(());
            }
            Blow::Kill => {
                handle.wanted.store(false, Ordering::Release);
                handle.service.lock().await.kill().await?;
                sleep(hold).await;
            }
            Blow::Restart => {
                handle.wanted.store(false, Ordering::Release);
                // Work that the service cannot finish in time is taken over by others. The suite includes this case.
                handle.service.lock().await.stop(STOP_WITHIN).await.ok();
                sleep(hold).await;
            }
        }
        handle.service.lock().await.relaunch().await?;
        handle.wanted.store(true, Ordering::Release);
        Ok(())
    }

    async fn tear(&self, part: Part, store: Store, weather: Weather, hold: Duration) -> Result<()> {
        let (handle, link) = (&self.reach.services[&part], &self.reach.links[&(part, store)]);
        link.set(weather);
        sleep(hold).await;
        handle.wanted.store(false, Ordering::Release);
        let killed = handle.service.lock().await.kill().await;
        link.set(Weather::Clear);
        killed?;
        handle.service.lock().await.relaunch().await?;
        handle.wanted.store(true, Ordering::Release);
        Ok(())
    }

    async fn server(&self, store: Store, blow: Blow, hold: Duration) -> Result<()> {
        let server = &self.reach.servers[&store];
        match blow {
            Blow::Pause => {
                server.lock().await.pause()?;
                sleep(hold).await;
                return server.lock().await.resume();
            }
            Blow::Kill => server.lock().await.kill().await?,
            // A server that takes too long is killed.
            Blow::Restart => drop(server.lock().await.stop().await.ok()),
        }
        sleep(hold).await;
        server.lock().await.restart().await
    }

    /// NATS may have another fault at the same time. Then this fault is skipped.
    async fn stream_full(&self, hold: Duration) -> Result<()> {
        let filled = timeout(Duration::from_secs(3), fill(self.reach.nats_url.clone())).await;
        let Ok(Ok((context, config))) = filled else {
            return Ok(());
        };
        sleep(hold).await;
        timeout(READY_WITHIN, restore(context, config))
            .await
            .context("making the stream larger again")
    }

    /// The gateway cannot reach NATS, and clients send it more than its spool can hold.
    async fn spool_full(&self, n: usize, shortage: Shortage, hold: Duration) -> Result<()> {
        let part = Part::Gateway(n);
        let (handle, link) = (&self.reach.services[&part], &self.reach.links[&(part, Store::Nats)]);
        // If a gateway is restarted during the fault, it has free disk space again.
        let limit = async |bytes| handle.service.lock().await.process().limit_files(bytes).ok();
        let room = match shortage {
            Shortage::Disk(room) => Some(room),
            Shortage::Allowance => None,
        };
        limit(room).await;
        link.set(Weather::Cut);
        let sent = self.load.burst(n - 1, hold).await;
        link.set(Weather::Clear);
        limit(None).await;
        sent
    }

    async fn stripe(&self, fault: StripeFault, hold: Duration) {
        let control = self.reach.stripe.control();
        let rule = match fault {
            StripeFault::Before => FaultRule::new(FaultKind::ServerError).probability(0.5, 1),
            StripeFault::After => FaultRule::new(FaultKind::Reset).after().probability(0.5, 2),
            StripeFault::TooMany => {
                FaultRule::new(FaultKind::TooManyRequests { retry_after_s: None }).probability(0.7, 3)
            }
            StripeFault::Hangs => FaultRule::new(FaultKind::Hang { ms: 3_000 }).probability(0.5, 4),
            StripeFault::Webhooks => {
                control.set_webhooks(WebhookBehavior {
                    copies: 2,
                    shuffle: true,
                    drop_first: 1,
                    ..WebhookBehavior::default()
                });
                sleep(hold).await;
                return control.set_webhooks(WebhookBehavior::default());
            }
        };
        control.add_fault(rule);
        sleep(hold).await;
        control.clear_faults();
    }
}

async fn turn_clock(file: PathBuf, ms: i64, hold: Duration) -> Result<()> {
    tokio::fs::write(file.clone(), ms.to_string()).await?;
    sleep(hold).await;
    Ok(tokio::fs::write(file, "0").await?)
}

/// From now on the stream cannot grow. Returns its previous configuration.
async fn fill(nats_url: String) -> Result<(jetstream::Context, jetstream::stream::Config)> {
    let context = jetstream::new(async_nats::connect(nats_url).await?);
    let stream = context.get_stream(names::USAGE_STREAM).await?;
    let config = stream.cached_info().config.clone();
    let full = jetstream::stream::Config {
        max_bytes: i64::try_from(stream.cached_info().state.bytes)?.max(1),
        ..config.clone()
    };
    context.update_stream(full).await?;
    Ok((context, config))
}

/// Retries until NATS accepts the change, because nothing else enlarges the stream again.
async fn restore(context: jetstream::Context, config: jetstream::stream::Config) {
    while context.update_stream(config.clone()).await.is_err() {
        sleep(Duration::from_millis(200)).await;
    }
}

/// Restarts services that exited on their own, as a supervisor would, until `stop`.
pub async fn keep(reach: Arc<Reach>, gave_up: Arc<Mutex<Vec<String>>>, stop: Arc<AtomicBool>) -> Result<()> {
    while !stop.load(Ordering::Acquire) {
        for (part, handle) in &reach.services {
            // Another task holds the service and takes care of it.
            let Ok(mut service) = handle.service.try_lock() else {
                continue;
            };
            if handle.wanted.load(Ordering::Acquire) && !service.is_running() {
                let tail = service.process().log_tail();
                let last = tail.lines().last().unwrap_or_default();
                let line = format!("{part} ended on its own: {last}");
                gave_up.lock().unwrap_or_else(PoisonError::into_inner).push(line);
                service.relaunch().await?;
            }
        }
        sleep(LOOK).await;
    }
    Ok(())
}
