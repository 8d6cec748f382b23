//! NATS is unavailable: accepted events are stored once, nothing is refused while the spool has room, and limits stay exact.

mod bounds;
mod faults;
mod restarts;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use devstack::admin::Customer;
use harness::{Client, Stack, StackOptions, eventually};
use tokio::task::JoinSet;

use crate::SERVICES;

/// A stack, and a customer with a very high limit.
async fn stack(gateways: usize, gateway_env: &[(&'static str, &str)]) -> (Stack, Customer) {
    let options = StackOptions {
        gateways,
        gateway_env: gateway_env
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()))
            .collect(),
        ..StackOptions::default()
    };
    let stack = Stack::start(SERVICES, options).await.unwrap();
    let customer = customer(&stack, "ada", 100_000_000).await;
    (stack, customer)
}

async fn customer(stack: &Stack, name: &str, limit: i64) -> Customer {
    let customer = stack.admin.customer(name, "enterprise").await.unwrap();
    sqlx::query("insert into limit_overrides (account_id, usage_type, limit_units) values ($1, 'api_call', $2)")
        .bind(customer.account_id.0)
        .bind(limit)
        .execute(&stack.pool)
        .await
        .unwrap();
    customer
}

/// Clients that spend single units and record the responses.
struct Load {
    responses: Arc<Responses>,
    stop: Arc<AtomicBool>,
    clients: JoinSet<()>,
}

#[derive(Default)]
struct Responses {
    accepted: AtomicU64,
    refused: AtomicU64,
    over_limit: AtomicU64,
    unknown: AtomicU64,
    /// No response: the gateway was killed.
    cut: AtomicU64,
    slowest_ms: AtomicU64,
}

impl Load {
    fn start(stack: &Stack, customer: &Customer, clients: usize) -> Self {
        let (responses, stop) = (Arc::<Responses>::default(), Arc::<AtomicBool>::default());
        let mut set = JoinSet::new();
        for n in 0..clients {
            let client = Client::new(stack.gateway(n % stack.gateways.len()), customer);
            let (responses, stop) = (responses.clone(), stop.clone());
            set.spawn(async move {
                while !stop.load(Relaxed) {
                    let began = Instant::now();
                    let counter = match client.spend("api_call", 1).await.map(|answer| answer.status.as_u16()) {
                        Ok(200) => &responses.accepted,
                        Ok(503) => &responses.refused,
                        Ok(429) => &responses.over_limit,
                        Ok(504) => &responses.unknown,
                        Ok(status) => panic!("{status}"),
                        Err(_) => &responses.cut,
                    };
                    counter.fetch_add(1, Relaxed);
                    let took = began.elapsed().as_millis() as u64;
                    responses.slowest_ms.fetch_max(took, Relaxed);
                    if !std::ptr::eq(counter, &responses.accepted) {
                        // A refused client waits before it retries.
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
            });
        }
        Self {
            responses,
            stop,
            clients: set,
        }
    }

    async fn accepts(&self, more: u64) {
        let before = self.responses.accepted.load(Relaxed);
        let enough = async || (self.responses.accepted.load(Relaxed) >= before + more).then_some(());
        eventually("more requests are accepted", enough).await;
    }

    async fn end(self) -> Arc<Responses> {
        self.stop.store(true, Relaxed);
        self.clients.join_all().await;
        self.responses
    }
}

impl Responses {
    fn counts(&self) -> [u64; 5] {
        [
            &self.accepted,
            &self.refused,
            &self.over_limit,
            &self.unknown,
            &self.cut,
        ]
        .map(|counter| counter.load(Relaxed))
    }
}

/// The ledger check if some outcomes are unknown: every accepted request is stored, none twice, and no others.
async fn assert_stored_between(stack: &Stack, customer: &Customer, responses: &Responses) -> u64 {
    let [accepted, _, _, unknown, cut] = responses.counts();
    let stored = async || {
        let sums = stack.sums(customer.account_id).await.ok()?;
        (sums.events >= accepted).then_some(sums)
    };
    let sums = eventually("the accepted requests are stored", stored).await;
    assert_eq!(sums.events, sums.distinct, "nothing is stored twice");
    assert!(
        (accepted..=accepted + unknown + cut).contains(&sums.events),
        "{:?}, {sums:?}",
        responses.counts()
    );
    sums.events
}

/// The value of one of a gateway's metrics.
async fn metric(stack: &Stack, gateway: usize, name: &str) -> f64 {
    stack.gateways[gateway].service.metric(name).await.unwrap()
}

async fn state_of_runs(stack: &Stack) -> Vec<String> {
    sqlx::query_scalar("select state from gateway_runs where gateway <> 'billing-worker' order by started_at")
        .fetch_all(&stack.pool)
        .await
        .unwrap()
}

async fn is_spooling(stack: &Stack, runs: usize) {
    eventually("the runs spool", async || {
        let spooling = state_of_runs(stack)
            .await
            .iter()
            .filter(|state| *state == "spooling")
            .count();
        (spooling == runs).then_some(())
    })
    .await;
}

async fn is_drained(stack: &Stack) {
    eventually("the spool is drained", async || {
        (!state_of_runs(stack).await.contains(&"spooling".to_owned())).then_some(())
    })
    .await;
}

/// Units that are granted and not returned.
async fn granted(stack: &Stack) -> i64 {
    sqlx::query_scalar("select coalesce(sum(granted_units), 0)::bigint from quota_pool")
        .fetch_one(&stack.pool)
        .await
        .unwrap()
}

fn spool_dir(stack: &Stack, gateway: usize) -> PathBuf {
    stack.data.path().join("spool").join(format!("gateway-{}", gateway + 1))
}

/// The run directories in a gateway's spool.
fn runs_in(dir: PathBuf) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.is_dir() && path.file_name().is_some_and(|name| name != "given-up"))
        .collect()
}
