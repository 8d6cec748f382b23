//! Admits a request before it is served and records it afterwards. An acknowledged event is stored. Units of an event that is not
//! stored are given back.
//!
//! A billing worker may end the run of a live gateway whose heartbeat stopped for too long. An event that has not reached its
//! lane by then never will. So its request is **admitted again**, in the next run and with units of that run. The billing worker
//! settles the units of the ended run. Only requests whose events are certainly not stored are admitted again, and the upstream
//! is not called again.

use std::{sync::Arc, time::Duration};

use prometheus_client::metrics::counter::Counter;
use schema::{RunId, UsageEvent, UsageType, clock, usage_event::check_times};
use service::Backoff;
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::debug;

use super::{
    current_run::CurrentRun,
    event::{self, Facts, Receipt},
    publisher::{Outgoing, PublishOutcome, Publisher, Slot},
};
use crate::{
    accounts::key::Key,
    clock::Clocks,
    quota::{Admission, Quotas, Refusal},
};

/// How often one request may be admitted again after its first run. If the gateway loses more runs in a row, it reports that.
const RUNS_AFTER_MAX: u32 = 2;

/// The parts that recording needs: quotas, lanes, and the current run.
pub struct Recorder {
    pub quotas: Quotas,
    pub publisher: Publisher,
    pub current_run: CurrentRun,
    pub clocks: Clocks,
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
    /// The account's lane accepts no more events now. Nothing was spent.
    LaneClosed,
    /// The clock of this machine is wrong, so the request would get a wrong time or period. Nothing was spent.
    ClockWrong,
    /// The units were refused. Nothing was spent.
    Refused {
        refusal: Refusal,
        usage_type: UsageType,
        cost: i64,
        now_s: i64,
    },
    /// The event is certainly not stored. The units are given back.
    NotStored,
    /// It is unknown yet whether the event is stored. It is stored at most once.
    OutcomeUnknown,
}

/// An admitted request with its slot in the lane. Dropping it gives back the slot and the units.
pub struct Admitted {
    slot: Slot,
    admission: Admission,
    key: Arc<Key>,
    facts: Facts,
}

impl RecordError {
    /// Whether a retry may soon succeed.
    fn is_temporary(&self) -> bool {
        matches!(
            self,
            Self::LaneClosed
                | Self::ClockWrong
                | Self::NotStored
                | Self::Refused {
                    refusal: Refusal::Unavailable,
                    ..
                }
        )
    }
}

impl Recorder {
    /// Takes a slot in the account's lane. Call it before any unit is spent.
    pub fn reserve(&self, key: &Key) -> Result<Slot, RecordError> {
        if !self.clocks.is_right() {
            return Err(RecordError::ClockWrong);
        }
        let slot = self.publisher.reserve(key.account.id);
        slot.map_err(|_| RecordError::LaneClosed)
    }

    /// Reserves the units of a request, without a slot in the lane.
    pub async fn admit_units(
        &self,
        key: &Key,
        usage_type: UsageType,
        cost: i64,
        now_s: i64,
    ) -> Result<Admission, RecordError> {
        let admitted = self.quotas.admit(&key.counters, usage_type, cost, now_s).await;
        let admission = admitted.map_err(|refusal| RecordError::Refused {
            refusal,
            usage_type,
            cost,
            now_s,
        })?;
        // An event that ClickHouse cannot hold would be acknowledged and never stored.
        match check_times(admission.segment, now_s.saturating_mul(1_000)) {
            Ok(()) => Ok(admission),
            Err(_) => Err(RecordError::ClockWrong),
        }
    }

    /// Takes a slot in the lane, then reserves the units.
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

    /// Records a successful request with its units, and returns when the record is durable.
    ///
    /// Dropping it while it waits changes nothing: the lane has the event and its units, and completes both.
    pub async fn charge(&self, admitted: Admitted, status: u16) -> Result<Receipt, RecordError> {
        let deadline = Instant::now() + self.current_run.patience;
        let (receipt, event) = event::charged(&admitted.key, &admitted.admission, admitted.facts, status);
        let outgoing = Outgoing {
            event: event.encode(),
            units: Some(admitted.admission),
        };
        match admitted.slot.publish(vec![outgoing]).await {
            PublishOutcome::RunEnded(run) => self.charge_again(&admitted.key, receipt, event, run, deadline).await,
            outcome => self.settled(outcome).map(|()| receipt),
        }
    }

    /// Charges an event that is certainly not stored, because its run `ended` first. Waits for the next run and admits the
    /// request there, by `deadline`. If it cannot be admitted, it is refused like a new request. The event keeps its id.
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
            // The event gets the period of the new admission, and so its time, too.
            event::stamp(&mut event, &admission, time_ms);
            let receipt = event::receipt(&event, &admission);
            let outgoing = Outgoing {
                event: event.encode(),
                units: Some(admission),
            };
            self.metrics.admitted_again.inc();
            debug!(event.id = %event.event_id, run.ended = %ended, "admitted a request again: its run had ended");
            // A drop at the deadline changes nothing: the lane has the event and its units.
            match timeout_at(deadline, slot.publish(vec![outgoing])).await {
                Ok(PublishOutcome::RunEnded(run)) => ended = run,
                Ok(outcome) => return self.settled(outcome).map(|()| receipt),
                Err(_) => return self.settled(PublishOutcome::Unknown).map(|()| receipt),
            }
        }
        self.settled(PublishOutcome::RunEnded(ended)).map(|()| receipt)
    }

    /// Takes a slot and units of the current run for a request that was already served. PostgreSQL may have been unavailable
    /// while the run ended. The served request cannot be undone, so temporary errors are retried until `deadline`. A key that was
    /// revoked meanwhile admits nothing.
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
            if key.has_ended() {
                return Err(RecordError::NotStored);
            }
            // The same order as for every request: first a slot in the new run's lane, then units, which are never of an older
            // run.
            let admitted = match self.reserve(key) {
                _ if !key.is_read() => Err(RecordError::NotStored),
                Ok(slot) => self
                    .admit_units(key, receipt.usage_type, receipt.cost_units, now_s)
                    .await
                    .map(|admission| (slot, admission, time_ms)),
                Err(closed) => Err(closed),
            };
            let next = Instant::now() + pauses.next_delay();
            match admitted {
                Err(error) if error.is_temporary() && next < deadline => sleep_until(next).await,
                admitted => return admitted,
            }
        }
    }

    /// Converts an outcome of the lane into the result of the request that waits for it.
    pub fn settled(&self, outcome: PublishOutcome) -> Result<(), RecordError> {
        match outcome {
            PublishOutcome::Stored => {
                self.metrics.accepted.inc();
                Ok(())
            }
            PublishOutcome::NotStored | PublishOutcome::RunEnded(_) => Err(RecordError::NotStored),
            PublishOutcome::Unknown => Err(RecordError::OutcomeUnknown),
        }
    }
}

impl Admitted {
    /// Handles a request that failed after it was admitted: gives the units back, and records it without units.
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
