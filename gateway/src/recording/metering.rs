//! Decides before a request is served and records after it. What is acknowledged is stored; what is not stored is given back.
//!
//! A run may be ended by others while this gateway lives: it was silent for too long. What had not reached its lanes by then
//! never will, so it is **admitted anew**, in the next run and with units of that one: those of the ended run are settled by
//! others. Only what is certain not to be stored is; the upstream is not asked again.

use std::{net::IpAddr, sync::Arc, time::Duration};

use schema::{EventId, LeaseId, RunId, UsageEvent, UsageType, clock, usage_event::stored_address};
use service::Backoff;
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::debug;

use crate::{
    accounts::account::Key,
    http::{
        gateway::Gateway,
        problem::{Kind, Problem},
    },
    quota::admission::{Admission, QuotaView},
    recording::publisher::{Outcome, Outgoing, Slot},
};

/// Runs that one request may be admitted in after its first: a gateway that loses one after the other has to say so.
const ANEW_MAX: u32 = 2;

/// What the event says of the request, besides who is charged how much.
pub struct Facts {
    pub endpoint: String,
    pub method: String,
    pub request_id: String,
    pub address: IpAddr,
    pub user_agent: String,
    pub idempotency_key: Option<String>,
    /// What retries with the same key name too, through whatever gateway they come: it is counted once. `None`: a new one.
    pub event_id: Option<EventId>,
    /// When the request was admitted, in Unix milliseconds.
    pub time_ms: i64,
}

/// An admitted request with its place in the lane. Dropped, it gives back both.
pub struct Admitted {
    slot: Slot,
    admission: Admission,
    key: Arc<Key>,
    facts: Facts,
}

/// What was recorded.
#[derive(Clone, Copy, Debug)]
pub struct Receipt {
    pub event_id: EventId,
    pub usage_type: UsageType,
    pub cost_units: i64,
    pub quota: QuotaView,
}

/// A place in the account's lane; asked for before a unit is spent.
pub fn reserve(gateway: &Gateway, key: &Key) -> Result<Slot, Problem> {
    gateway.publisher.reserve(key.account.id).map_err(|_| {
        Problem::new(
            Kind::RecordingUnavailable,
            "usage cannot be recorded now; nothing was counted: try again",
        )
    })
}

/// The units of a request, without a place in the lane.
pub async fn admit_units(
    gateway: &Gateway,
    key: &Key,
    usage_type: UsageType,
    cost: i64,
    now_s: i64,
) -> Result<Admission, Problem> {
    let admitted = gateway.quotas.admit(&key.account, usage_type, cost, now_s).await;
    admitted.map_err(|refusal| Problem::refused(refusal, usage_type, cost, now_s))
}

/// A place in the lane, then the units.
pub async fn admit(
    gateway: &Gateway,
    key: Arc<Key>,
    usage_type: UsageType,
    cost: i64,
    facts: Facts,
) -> Result<Admitted, Problem> {
    let slot = reserve(gateway, &key)?;
    let admission = admit_units(gateway, &key, usage_type, cost, facts.time_ms.div_euclid(1_000)).await?;
    Ok(Admitted {
        slot,
        admission,
        key,
        facts,
    })
}

impl Admitted {
    /// The request succeeded: records it with its units, and returns once that is durable.
    ///
    /// Dropped while it waits, it changes nothing: the lane has the event and its units, and sees to both.
    pub async fn charge(self, gateway: &Gateway, status: u16) -> Result<Receipt, Problem> {
        let deadline = Instant::now() + gateway.current_run.patience;
        let (receipt, event) = charged(&self.key, &self.admission, self.facts, status);
        let outgoing = Outgoing {
            event: event.encode(),
            units: Some(self.admission),
        };
        match self.slot.publish(vec![outgoing]).await {
            Outcome::RunEnded(run) => charge_anew(gateway, &self.key, receipt, event, run, deadline).await,
            outcome => settled(gateway, outcome).map(|()| receipt),
        }
    }

    /// The request failed after it was admitted: gives the units back, and records it with none.
    pub fn fail(self, status: u16) -> Receipt {
        let (receipt, event) = failed(&self.key, &self.admission, self.facts, status);
        // First, so that the next request has the units at once.
        drop(self.admission);
        self.slot.publish_and_forget(Outgoing {
            event: event.encode(),
            units: None,
        });
        receipt
    }
}

/// Charges an event that is certainly not stored, because the run `ended` before it was: waits for the next run and admits it
/// there, by `deadline`. What cannot be admitted any more is refused like a request that comes now. It keeps its id.
pub async fn charge_anew(
    gateway: &Gateway,
    key: &Key,
    receipt: Receipt,
    mut event: UsageEvent,
    mut ended: RunId,
    deadline: Instant,
) -> Result<Receipt, Problem> {
    for _ in 0..ANEW_MAX {
        if !gateway.current_run.is_after(ended, deadline).await {
            break;
        }
        let (slot, admission, time_ms) = admit_anew(gateway, key, &receipt, deadline).await?;
        // The period is that of the new admission, so the time is, too.
        stamp(&mut event, &admission, time_ms);
        let receipt = self::receipt(&event, &admission);
        let outgoing = Outgoing {
            event: event.encode(),
            units: Some(admission),
        };
        gateway.metrics.admitted_anew();
        debug!(event.id = %event.event_id, run.ended = %ended, "admitted a request anew: its run had ended");
        // Dropped at the deadline, it changes nothing: the lane has the event and its units.
        match timeout_at(deadline, slot.publish(vec![outgoing])).await {
            Ok(Outcome::RunEnded(run)) => ended = run,
            Ok(outcome) => return settled(gateway, outcome).map(|()| receipt),
            Err(_) => return settled(gateway, Outcome::Unknown).map(|()| receipt),
        }
    }
    settled(gateway, Outcome::RunEnded(ended)).map(|()| receipt)
}

/// A place and units for what was served already, in the run of now. Postgres may have been out of reach for as long as the
/// run was ending: what passes is waited for until `deadline`, since nobody can take the work back.
async fn admit_anew(
    gateway: &Gateway,
    key: &Key,
    receipt: &Receipt,
    deadline: Instant,
) -> Result<(Slot, Admission, i64), Problem> {
    let mut pauses = Backoff::new(Duration::from_millis(20), Duration::from_millis(500));
    loop {
        let time_ms = clock::now_ms();
        let now_s = time_ms.div_euclid(1_000);
        // In the order of every request: a place in the new run's lane, then units, which cannot be of an older run.
        let admitted = match reserve(gateway, key) {
            Ok(slot) => admit_units(gateway, key, receipt.usage_type, receipt.cost_units, now_s)
                .await
                .map(|admission| (slot, admission, time_ms)),
            Err(full) => Err(full),
        };
        let next = Instant::now() + pauses.next_delay();
        match admitted {
            Err(problem) if problem.kind.is_passing() && next < deadline => sleep_until(next).await,
            admitted => return admitted,
        }
    }
}

/// What an outcome of the lane means to the one who waits for it.
pub fn settled(gateway: &Gateway, outcome: Outcome) -> Result<(), Problem> {
    match outcome {
        Outcome::Stored => {
            gateway.metrics.accepted();
            Ok(())
        }
        Outcome::NotStored | Outcome::RunEnded(_) => Err(Problem::new(
            Kind::NotRecorded,
            "the usage could not be recorded; nothing was counted: try again",
        )),
        Outcome::Unknown => Err(Problem::new(
            Kind::OutcomeUnknown,
            "the usage was sent off, but its record is not confirmed; it is counted once or not at all",
        )),
    }
}

/// The event of a request that is charged.
pub fn charged(key: &Key, admission: &Admission, facts: Facts, status: u16) -> (Receipt, UsageEvent) {
    let event_id = facts.event_id.unwrap_or_else(EventId::new);
    let event = event(key, admission, facts, status);
    let event = UsageEvent {
        event_id,
        cost_units: admission.cost_units,
        lease_id: admission.lease_id,
        ..event
    };
    (receipt(&event, admission), event)
}

/// The event of a request that was admitted and then failed.
fn failed(key: &Key, admission: &Admission, facts: Facts, status: u16) -> (Receipt, UsageEvent) {
    let event = UsageEvent {
        event_id: EventId::new(),
        // Not the client's: the retry that succeeds would be taken for a duplicate of this one, and its units be lost.
        idempotency_key: String::new(),
        ..event(key, admission, facts, status)
    };
    (receipt(&event, admission), event)
}

/// Makes an event that was admitted before one of this admission.
fn stamp(event: &mut UsageEvent, admission: &Admission, time_ms: i64) {
    event.subscription_id = admission.subscription_id;
    event.period_start = admission.period.start;
    event.cost_units = admission.cost_units;
    event.lease_id = admission.lease_id;
    event.time_ms = time_ms;
}

/// The event without a name and without units.
fn event(key: &Key, admission: &Admission, facts: Facts, status: u16) -> UsageEvent {
    UsageEvent {
        event_id: EventId::NIL,
        account_id: key.account.id,
        key_id: key.id,
        subscription_id: admission.subscription_id,
        period_start: admission.period.start,
        usage_type: admission.usage_type.name().to_owned(),
        cost_units: 0,
        endpoint: facts.endpoint,
        method: facts.method,
        status,
        request_id: facts.request_id,
        ip_address: stored_address(facts.address),
        user_agent: facts.user_agent,
        time_ms: facts.time_ms,
        lease_id: LeaseId::NIL,
        idempotency_key: facts.idempotency_key.unwrap_or_default(),
        corrects: EventId::NIL,
    }
}

fn receipt(event: &UsageEvent, admission: &Admission) -> Receipt {
    Receipt {
        event_id: event.event_id,
        usage_type: admission.usage_type,
        cost_units: event.cost_units,
        quota: admission.quota,
    }
}
