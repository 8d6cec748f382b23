//! The quotas of one gateway: their parts, the run that leases are taken for, and returning everything at the end.

use std::{sync::Arc, time::Duration};

use async_nats::Client;
use lane::link::Link;
use prometheus_client::registry::Registry;
use schema::RunId;
use service::Lifecycle;
use sqlx::PgPool;
use tokio::{
    sync::{Semaphore, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    counters::Counters,
    leases::{
        client::{LeaseClient, LeaseClientLimits},
        requests::LeaseRequests,
    },
    metrics::QuotaMetrics,
    recall::{self, Recalls},
};
use crate::clock::Clocks;

/// Maximum number of concurrent queries of requests that only read quotas.
const READS_MAX: usize = 2;

#[derive(Clone, Debug)]
pub struct QuotaSettings {
    /// How long a request may wait for units before it fails as unavailable.
    pub wait_max: Duration,
    /// Requests of one counter that may wait for units at the same time. More fail as unavailable.
    pub waiting_max: usize,
    /// A counter that spends nothing for this long gives its units back.
    pub idle_after: Duration,
    /// How long other gateways may take to give back what they hold before a request is refused.
    pub recall_wait: Duration,
    /// Counters served by one transaction.
    pub transaction_counters_max: usize,
    /// How long a transaction is tried before PostgreSQL counts as unavailable.
    pub transaction_deadline: Duration,
    /// How long [`Quotas::return_all`] waits for requests in progress and for PostgreSQL.
    pub return_deadline: Duration,
}

impl Default for QuotaSettings {
    fn default() -> Self {
        Self {
            wait_max: Duration::from_secs(2),
            waiting_max: 1_024,
            idle_after: Duration::from_secs(30),
            recall_wait: Duration::from_millis(100),
            transaction_counters_max: 256,
            transaction_deadline: Duration::from_millis(1_500),
            return_deadline: Duration::from_secs(10),
        }
    }
}

#[derive(Clone)]
pub struct Quotas {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub requests: Arc<LeaseRequests>,
    pub counters: Arc<Counters>,
    pub recalls: Arc<Recalls>,
    pub pool: PgPool,
    /// Permits of requests that only read quotas. They leave connections for leases and heartbeats.
    pub reads: Semaphore,
    pub settings: QuotaSettings,
    /// Ends the lease client.
    ended: CancellationToken,
}

impl Quotas {
    /// Starts the lease client, which runs until [`Quotas::return_all`] has ended, and the sweep, which stops with the service.
    /// [`recall::follow`] starts listening to other gateways.
    pub fn new(
        pool: PgPool,
        client: Client,
        link: Link,
        clocks: &Clocks,
        settings: QuotaSettings,
        metrics: &mut Registry,
        life: &Lifecycle,
    ) -> Self {
        let (requests, queue) = LeaseRequests::new(QuotaMetrics::register(metrics));
        let counters = Counters::new(&requests);
        let ended = CancellationToken::new();
        let limits = LeaseClientLimits {
            counters_max: settings.transaction_counters_max,
            deadline: settings.transaction_deadline,
        };
        let lease_client = LeaseClient::new(
            Arc::clone(&requests),
            Arc::clone(&counters),
            pool.clone(),
            clocks.clone(),
            queue,
            limits,
            ended.clone(),
        );
        life.spawn(lease_client.run());
        life.spawn(Arc::clone(&counters).sweep(settings.idle_after, life.clone()));
        let timed_out = requests.metrics.recalls_timed_out.clone();
        let recalls = Recalls::new(client, link, settings.recall_wait, timed_out);
        life.spawn(recall::announce(
            Arc::clone(&requests.returns),
            Arc::clone(&recalls),
            life.clone(),
        ));
        Self {
            inner: Arc::new(Inner {
                requests,
                counters,
                recalls,
                pool,
                reads: Semaphore::new(READS_MAX),
                settings,
                ended,
            }),
        }
    }

    /// Starts to take leases for `run`, whose lanes are all open. Drops leases of another run.
    pub fn start_run(&self, run: RunId) {
        if self.inner.requests.run().is_some_and(|before| before != run) {
            self.drop_run();
        }
        self.inner.requests.set_run(Some(run));
    }

    /// Drops every lease of the run, because it was fenced. Gives nothing back, because settling does that.
    pub fn drop_run(&self) {
        self.inner.requests.set_run(None);
        self.inner.counters.abandon_all();
    }

    /// The run that is no longer active in PostgreSQL, as a transaction of the lease client found out. It must be dropped and
    /// replaced. Until then requests are served from the leases at hand.
    pub fn run_lost(&self) -> watch::Receiver<Option<RunId>> {
        self.inner.requests.run_lost()
    }

    /// Closes every counter, gives all unspent units back, and waits until no reservation remains or the deadline passes.
    /// Afterwards nothing is admitted under a limit.
    pub async fn return_all(&self) {
        let Inner { requests, counters, .. } = &*self.inner;
        requests.drain();
        let emptied = async {
            loop {
                counters.close_all();
                // Repeat this: a request may give units back just before it can notice that the gateway stops.
                if timeout(Duration::from_millis(100), counters.emptied()).await.is_ok() {
                    return;
                }
            }
        };
        match timeout(self.inner.settings.return_deadline, emptied).await {
            Ok(()) => info!("returned all leases"),
            Err(_) => warn!(
                accounts = counters.all_holders().len(),
                "not all leases were returned by the deadline: they are settled with this run"
            ),
        }
        self.inner.ended.cancel();
    }

    pub(crate) fn requests(&self) -> &Arc<LeaseRequests> {
        &self.inner.requests
    }

    pub(crate) fn counters(&self) -> &Arc<Counters> {
        &self.inner.counters
    }

    pub(super) fn recalls(&self) -> &Arc<Recalls> {
        &self.inner.recalls
    }
}
