//! Clients: each sends one call after the other, of any account through any gateway, and writes down what became of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    call::{self, Call},
    cast::{Cast, Role},
    history::{Attempt, Doubt, History, Outcome},
    stopwatch::Stopwatch,
    wire::{Failure, Wire},
};

/// More than any answer may take: outcomes are answered by their deadline, and a drain by its own.
const PATIENCE: Duration = Duration::from_secs(12);

/// What all clients share.
#[derive(Clone)]
pub struct Load {
    pub cast: Cast,
    pub history: History,
    pub stopwatch: Stopwatch,
    /// Host and port of each gateway.
    pub gateways: Arc<Vec<String>>,
    /// Of all clients together.
    pub calls_per_second: f64,
    pub clients: usize,
    pub seed: u64,
    pub idempotency: bool,
    pub calls: Arc<AtomicU32>,
}

struct Client {
    load: Load,
    random: StdRng,
    wires: Vec<Wire>,
    /// The gateway that it asks: one that does not answer holds up its own clients, and not those of others.
    gateway: usize,
}

/// Clients at work.
pub struct Loading {
    stop: CancellationToken,
    clients: JoinSet<Result<()>>,
    connections: TaskTracker,
}

impl Load {
    pub fn start(&self) -> Loading {
        let (stop, mut clients, connections) = (CancellationToken::new(), JoinSet::new(), TaskTracker::new());
        for n in 0..self.clients {
            let client = Client {
                load: self.clone(),
                random: StdRng::seed_from_u64(self.seed.wrapping_mul(1_000).wrapping_add(n as u64)),
                wires: self.gateways.iter().map(|address| Wire::new(address, &connections)).collect(),
                gateway: n % self.gateways.len(),
            };
            clients.spawn(client.run(stop.clone()));
        }
        Loading {
            stop,
            clients,
            connections,
        }
    }
}

impl Loading {
    /// Every client finishes its call, and no more is sent.
    pub async fn stop(mut self) -> Result<()> {
        self.stop.cancel();
        while let Some(ended) = self.clients.join_next().await {
            ended??;
        }
        self.connections.close();
        self.connections.wait().await;
        Ok(())
    }
}

impl Client {
    async fn run(mut self, stop: CancellationToken) -> Result<()> {
        let pause = self.load.clients as f64 / self.load.calls_per_second;
        let mut next = Instant::now();
        loop {
            next += Duration::from_secs_f64(pause * self.random.random_range(0.0..2.0));
            // Who was held up does not catch up: that would be another load.
            next = next.max(Instant::now());
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep_until(next) => {}
            }
            self.call().await?;
        }
    }

    async fn call(&mut self) -> Result<()> {
        let account = self.random.random_range(0..self.load.cast.members.len());
        let role: Role = self.load.cast.members[account].role;
        let call = call::make_up(&mut self.random, role, self.load.idempotency);
        let (key, of_key) = self.load.cast.pick_key(&mut self.random, account);
        let first = self.gateway;
        let number = self.load.calls.fetch_add(1, Ordering::Relaxed);
        let by = By { account, key };
        if !call.twice || self.wires.len() < 2 {
            let request = call.request(number, &of_key.secret, None)?;
            let wire = &mut self.wires[first];
            let attempts = attempt(&self.load, wire, first, &call, request, number, by, None).await;
            return self.load.history.write(attempts);
        }
        // The second try has a number of its own, and the operation that of the first.
        let again = self.load.calls.fetch_add(1, Ordering::Relaxed);
        let second = (first + self.random.random_range(1..self.wires.len())) % self.wires.len();
        let name = format!("operation-{}-{number}", self.load.seed);
        let requests = [
            call.request(number, &of_key.secret, Some(&name))?,
            call.request(again, &of_key.secret, Some(&name))?,
        ];
        let [request, retry] = requests;
        let wires = self.wires.get_disjoint_mut([first, second])?;
        let [wire, other] = wires;
        let later = Duration::from_millis(self.random.random_range(0..60));
        let (one, two) = tokio::join!(
            attempt(&self.load, wire, first, &call, request, number, by, Some(number)),
            async {
                tokio::time::sleep(later).await;
                attempt(&self.load, other, second, &call, retry, again, by, Some(number)).await
            }
        );
        self.load.history.write(one.into_iter().chain(two))
    }
}

#[derive(Clone, Copy)]
struct By {
    account: usize,
    key: usize,
}

#[allow(clippy::too_many_arguments, reason = "what one line of the history has")]
async fn attempt(
    load: &Load,
    wire: &mut Wire,
    gateway: usize,
    call: &Call,
    request: http::Request<http_body_util::Full<hyper::body::Bytes>>,
    number: u32,
    by: By,
    operation: Option<u32>,
) -> Vec<Attempt> {
    let invoked_ms = load.stopwatch.now_ms();
    let sent = wire.send(request, PATIENCE);
    let answered = match call.hangs_up_ms {
        None => sent.await,
        Some(ms) => tokio::time::timeout(Duration::from_millis(ms), sent)
            .await
            .unwrap_or(Err(Failure::Doubt(Doubt::HungUp))),
    };
    let completed_ms = load.stopwatch.now_ms();
    let outcomes: Vec<Outcome> = call.outcomes(answered);
    let of_event = |(n, (outcome, (usage_type, cost))): (usize, (Outcome, &(usize, i64)))| Attempt {
        request: Call::request_id(number, n),
        way: call.way,
        gateway,
        account: by.account,
        key: by.key,
        usage_type: *usage_type,
        cost: *cost,
        operation,
        invoked_ms,
        completed_ms,
        outcome,
    };
    outcomes.into_iter().zip(&call.events).enumerate().map(of_event).collect()
}
