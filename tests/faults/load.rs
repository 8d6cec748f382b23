//! The clients. Each sends one call at a time, for any account, through its gateway, and records the outcome.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use http::Request;
use http_body_util::Full;
use hyper::body::Bytes;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    call::{self, Call},
    cast::{Cast, Role},
    history::{Attempt, AttemptOutcome, Doubt, History},
    stopwatch::Stopwatch,
    wire::{Failure, Wire},
};

/// Longer than any answer may take: both outcomes and drains have a deadline.
const PATIENCE: Duration = Duration::from_secs(12);

/// The pause between two calls of a burst. A burst fills a spool within a second, and causes little work once the spool is
/// full.
const BETWEEN_FAT: Duration = Duration::from_millis(25);

/// The state that all clients share.
#[derive(Clone)]
pub struct Load {
    pub cast: Cast,
    pub history: History,
    pub stopwatch: Stopwatch,
    /// Host and port of each gateway.
    pub gateways: Arc<Vec<String>>,
    /// The rate of all clients together.
    pub calls_per_second: f64,
    pub clients: usize,
    pub seed: u64,
    pub calls: Arc<AtomicU32>,
}

struct Client {
    load: Load,
    random: StdRng,
    wires: Vec<Wire>,
    /// The gateway that this client calls. A gateway that does not answer delays only its own clients.
    gateway: usize,
}

/// The running clients.
pub struct Loading {
    stop: CancellationToken,
    clients: JoinSet<Result<()>>,
    connections: TaskTracker,
}

impl Load {
    pub fn start(&self) -> Loading {
        let (stop, mut clients, connections) = (CancellationToken::new(), JoinSet::new(), TaskTracker::new());
        for n in 0..self.clients {
            let client = self.client(n, &connections);
            clients.spawn(client.run(stop.clone()));
        }
        Loading {
            stop,
            clients,
            connections,
        }
    }

    /// Sends large batches to one gateway, one at a time, for this time.
    pub async fn burst(&self, gateway: usize, length: Duration) -> Result<()> {
        let mut client = self.client(gateway, &TaskTracker::new());
        let (accounts, end) = (self.cast.with_role(&[Role::Far]), Instant::now() + length);
        while Instant::now() < end {
            let account = accounts[client.random.random_range(0..accounts.len())];
            client.send(Call::fat(), account).await?;
            tokio::time::sleep(BETWEEN_FAT).await;
        }
        Ok(())
    }

    /// The n-th client.
    fn client(&self, n: usize, connections: &TaskTracker) -> Client {
        Client {
            load: self.clone(),
            random: StdRng::seed_from_u64(self.seed.wrapping_mul(1_000).wrapping_add(n as u64)),
            wires: self
                .gateways
                .iter()
                .map(|address| Wire::new(address, connections))
                .collect(),
            gateway: n % self.gateways.len(),
        }
    }
}

impl Loading {
    /// Lets every client finish its call, and sends nothing more.
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
            // A delayed client does not catch up, because that would change the load.
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
        let call = call::make_up(&mut self.random, role);
        self.send(call, account).await
    }

    async fn send(&mut self, call: Call, account: usize) -> Result<()> {
        let (key, of_key) = self.load.cast.pick_key(&mut self.random, account);
        let by = By {
            account,
            key,
            secret: of_key.secret,
        };
        if call.twice && self.wires.len() > 1 {
            return self.send_twice(call, by).await;
        }
        let one = Try::new(&self.load, &call, &by, self.gateway, None)?;
        let attempts = one.send(&self.load, &mut self.wires[self.gateway]).await;
        self.load.history.write(attempts)
    }

    /// Sends two overlapping tries of one operation, and a third one if neither was accepted.
    async fn send_twice(&mut self, call: Call, by: By) -> Result<()> {
        let (first, gateways) = (self.gateway, self.wires.len());
        let second = (first + self.random.random_range(1..gateways)) % gateways;
        let later = Duration::from_millis(self.random.random_range(0..60));
        let load = self.load.clone();
        let operation = load.calls.fetch_add(1, Ordering::Relaxed);
        let one = Try::new(&load, &call, &by, first, Some(operation))?;
        let two = Try::new(&load, &call, &by, second, Some(operation))?;
        let [wire, other] = self.wires.get_disjoint_mut([first, second])?;
        let (mut attempts, again) = tokio::join!(one.send(&load, wire), async {
            tokio::time::sleep(later).await;
            two.send(&load, other).await
        });
        attempts.extend(again);
        if !attempts.iter().any(Attempt::is_accepted) {
            tokio::time::sleep(later * 4).await;
            let three = Try::new(&load, &call, &by, second, Some(operation))?;
            attempts.extend(three.send(&load, &mut self.wires[second]).await);
        }
        load.history.write(attempts)
    }
}

/// The account and key of a call.
struct By {
    account: usize,
    key: usize,
    secret: String,
}

/// One transmission of a call.
struct Try<'a> {
    call: &'a Call,
    by: &'a By,
    request: Request<Full<Bytes>>,
    number: u32,
    gateway: usize,
    operation: Option<u32>,
}

impl<'a> Try<'a> {
    fn new(load: &Load, call: &'a Call, by: &'a By, gateway: usize, operation: Option<u32>) -> Result<Self> {
        let number = load.calls.fetch_add(1, Ordering::Relaxed);
        let name = operation.map(|operation| format!("operation-{}-{operation}", load.seed));
        Ok(Self {
            call,
            by,
            request: call.request(number, &by.secret, name.as_deref())?,
            number,
            gateway,
            operation,
        })
    }

    async fn send(self, load: &Load, wire: &mut Wire) -> Vec<Attempt> {
        let invoked_ms = load.stopwatch.now_ms();
        let sent = wire.send(self.request, PATIENCE);
        let answered = match self.call.hangs_up_ms {
            None => sent.await,
            Some(ms) => tokio::time::timeout(Duration::from_millis(ms), sent)
                .await
                .unwrap_or(Err(Failure::Doubt(Doubt::HungUp))),
        };
        let completed_ms = load.stopwatch.now_ms();
        let events = self.call.outcomes(answered).into_iter().zip(&self.call.events);
        let attempt = |(n, (outcome, (usage_type, cost))): (usize, (AttemptOutcome, &(usize, i64)))| Attempt {
            request: Call::request_id(self.number, n),
            way: self.call.way,
            gateway: self.gateway,
            account: self.by.account,
            key: self.by.key,
            usage_type: *usage_type,
            cost: *cost,
            operation: self.operation,
            invoked_ms,
            completed_ms,
            outcome,
        };
        events.enumerate().map(attempt).collect()
    }
}
