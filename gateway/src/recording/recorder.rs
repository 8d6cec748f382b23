//! Decides before a request is served and records after it. What is acknowledged is stored; what is not stored is given back.
//!
//! Others may end a run while its gateway lives: it was silent for too long. An event that had not reached its lane by then
//! never will, so its request is **admitted again**, in the next run and with units of that run. The units of the ended run are
//! settled by others. Only an event that is certainly not stored is treated so, and the upstream is not asked again.

use std::{sync::Arc, time::Duration};

use prometheus_client::metrics::counter::Counter;
use schema::{RunId, UsageEvent, UsageType, clock};
use service::Backoff;
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::debug;

use super::{
    current_run::CurrentRun,
    event::{self, Facts, Receipt},
    publisher::{Outcome, Outgoing, Publisher, Slot},
};
use crate::{
    accounts::key::Key,
    quota::{Admission, Quotas, Refusal},
};

/// Further runs that one request may be admitted in after its first. A gateway that loses more runs in a row reports it.
const RUNS_AFTER_MAX: u32 = 2;

/// What recording takes: units, a slot in the account's lane, and the run that both belong to.
pub struct Recorder {
    pub quotas: Quotas,
    pub publisher: Publisher,
    pub current_run: CurrentRun,
    pub metrics: RecorderMetrics,
}

pub struct RecorderMetrics {
    /// Requests that were recorded and charged.
    pub accepted: Counter,
    /// Requests that were admitted again, in the run that replaced their first one.
    pub admitted_again: Counter,
}

/// Why a request is not recorded.
#[derive(Debug, PartialEq, Eq)]
pub enum RecordError {
    /// Before anything was spent: the account's lane takes no more events now.
    LaneClosed,
    /// Before anything was spent: its units are refused.
    Refused {
        refusal: Refusal,
        usage_type: UsageType,
        cost: i64,
        now_s: i64,
    },
    /// Certainly not stored: the units are given back.
    NotStored,
    /// Stored once or not at all; nobody knows yet.
    OutcomeUnknown,
}

/// An admitted request with its slot in the lane. Dropped, it gives back both.
pub struct Admitted {
    slot: Slot,
    admission: Admission,
    key: Arc<Key>,
    facts: Facts,
}

impl RecordError {
    /// Trying again soon may help.
    fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::LaneClosed
                | Self::NotStored
                | Self::Refused {
                    refusal: Refusal::Unavailable,
                    ..
                }
        )
    }
}

impl Recorder {
    /// A slot in the account's lane. It comes before a unit is spent.
    pub fn reserve(&self, key: &Key) -> Result<Slot, RecordError> {
        let slot = self.publisher.reserve(key.account.id);
        slot.map_err(|_| RecordError::LaneClosed)
    }

    /// The units of a request, without a slot in the lane.
    pub async fn admit_units(
        &self,
        key: &Key,
        usage_type: UsageType,
        cost: i64,
        now_s: i64,
    ) -> Result<Admission, RecordError> {
        let admitted = self.quotas.admit(&key.counters, usage_type, cost, now_s).await;
        admitted.map_err(|refusal| RecordError::Refused {
            refusal,
            usage_type,
            cost,
            now_s,
        })
    }

    /// A slot in the lane, then the units.
    pub async fn admit(
        &self,
        key: Arc<Key>,
        usage_type: UsageType,
        cost: i64,
        facts: Facts,
    ) -> Result<Admitted, RecordError> {
        let slot = self.reserve(&key)?;
        let now_s = facts.time_ms.div_euclid(1_000);
        let admission = self.admit_units(&key, usage_type, cost, now_s).await?;
        Ok(Admitted {
            slot,
            admission,
            key,
            facts,
        })
    }

    /// The request succeeded: records it with its units, and returns once the record is durable.
    ///
    /// Dropped while it waits, it changes nothing: the lane has the event and its units, and completes both.
    pub async fn charge(&self, admitted: Admitted, status: u16) -> Result<Receipt, RecordError> {
        let deadline = Instant::now() + self.current_run.patience;
        let (receipt, event) = event::charged(&admitted.key, &admitted.admission, admitted.facts, status);
        let outgoing = Outgoing {
            event: event.encode(),
            units: Some(admitted.admission),
        };
        match admitted.slot.publish(vec![outgoing]).await {
            Outcome::RunEnded(run) => self.charge_again(&admitted.key, receipt, event, run, deadline).await,
            outcome => self.settled(outcome).map(|()| receipt),
        }
    }

    /// Charges an event that is certainly not stored, because the run `ended` before it was: waits for the next run and admits
    /// the request there, by `deadline`. If it cannot be admitted any more, it is refused like a new request. The event keeps
    /// its id.
    pub async fn charge_again(
        &self,
        key: &Key,
        receipt: Receipt,
        mut event: UsageEvent,
        mut ended: RunId,
        deadline: Instant,
    ) -> Result<Receipt, RecordError> {
        for _ in 0..RUNS_AFTER_MAX {
            if !self.current_run.is_after(ended, deadline).await {
                break;
            }
            let (slot, admission, time_ms) = self.admit_again(key, &receipt, deadline).await?;
            // The period is that of the new admission, so the time is, too.
            event::stamp(&mut event, &admission, time_ms);
            let receipt = event::receipt(&event, &admission);
            let outgoing = Outgoing {
                event: event.encode(),
                units: Some(admission),
            };
            self.metrics.admitted_again.inc();
            debug!(event.id = %event.event_id, run.ended = %ended, "admitted a request again: its run had ended");
            // Dropped at the deadline, it changes nothing: the lane has the event and its units.
            match timeout_at(deadline, slot.publish(vec![outgoing])).await {
                Ok(Outcome::RunEnded(run)) => ended = run,
                Ok(outcome) => return self.settled(outcome).map(|()| receipt),
                Err(_) => return self.settled(Outcome::Unknown).map(|()| receipt),
            }
        }
        self.settled(Outcome::RunEnded(ended)).map(|()| receipt)
    }

    /// A slot and units of the current run for a request that was served already. PostgreSQL may have been out of reach for as
    /// long as the run was ending. Errors that pass are waited out until `deadline`, since nobody can take the work back.
    async fn admit_again(
        &self,
        key: &Key,
        receipt: &Receipt,
        deadline: Instant,
    ) -> Result<(Slot, Admission, i64), RecordError> {
        let mut pauses = Backoff::new(Duration::from_millis(20), Duration::from_millis(500));
        loop {
            let time_ms = clock::now_ms();
            let now_s = time_ms.div_euclid(1_000);
            // In the order of every request: a slot in the new run's lane, then units, which cannot be of an older run.
            let admitted = match self.reserve(key) {
                Ok(slot) => self
                    .admit_units(key, receipt.usage_type, receipt.cost_units, now_s)
                    .await
                    .map(|admission| (slot, admission, time_ms)),
                Err(closed) => Err(closed),
            };
            let next = Instant::now() + pauses.next_delay();
            match admitted {
                Err(error) if error.is_passing() && next < deadline => sleep_until(next).await,
                admitted => return admitted,
            }
        }
    }

    /// What an outcome of the lane means to the request that waits for it.
    pub fn settled(&self, outcome: Outcome) -> Result<(), RecordError> {
        match outcome {
            Outcome::Stored => {
                self.metrics.accepted.inc();
                Ok(())
            }
            Outcome::NotStored | Outcome::RunEnded(_) => Err(RecordError::NotStored),
            Outcome::Unknown => Err(RecordError::OutcomeUnknown),
        }
    }
}

impl Admitted {
    /// The request failed after it was admitted: gives the units back, and records it with none.
    pub fn fail(self, status: u16) -> Receipt {
        let (receipt, event) = event::failed(&self.key, &self.admission, self.facts, status);
        // First, so that the next request has the units at once.
        drop(self.admission);
        self.slot.publish_and_forget(Outgoing {
            event: event.encode(),
            units: None,
        });
        receipt
    }
}
