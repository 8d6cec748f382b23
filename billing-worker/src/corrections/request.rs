//! Accepts a request for a correction: decides the rows and commits them.

use std::collections::{BTreeMap, HashMap};

use problem::json::Integer;
use schema::{AccountId, EventId};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tracing::info;
use uuid::Uuid;

use super::{
    correction::{Correction, event_of},
    originals::{self, Original},
    repository::{self, NewRow},
};
use crate::{
    accounts::{self, identity::checked_name},
    administration::{
        Administration, audit,
        page::{Listed, Trail},
    },
    error::Error,
};

/// Maximum number of events in one request.
pub const EVENTS_MAX: usize = 1_000;

/// A request to correct events of one account: all or none.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewCorrection {
    /// Chosen by the client. A repeated request with the same content changes nothing.
    pub correction_id: Uuid,
    pub account_id: AccountId,
    pub reason: String,
    /// Who requests the correction.
    pub by: String,
    pub events: Vec<NewTarget>,
}

/// The target of one event: `void`, or its new number of units.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "an event such as {\"event_id\": …, \"void\": true} or {\"event_id\": …, \"cost_units\": 5}"
)]
pub struct NewTarget {
    pub event_id: EventId,
    #[serde(default)]
    pub void: bool,
    pub cost_units: Option<Integer<0, { i64::MAX }>>,
}

/// The result of a request.
#[derive(Clone, Debug, Serialize)]
pub struct Corrected {
    pub correction_id: Uuid,
    pub account_id: AccountId,
    /// Sum over all events; negative.
    pub delta_units: i64,
    pub events: Vec<Correction>,
    /// The correction existed already; nothing changed.
    #[serde(skip)]
    pub repeated: bool,
}

/// The new units of each event, ordered by event id.
type Targets = BTreeMap<EventId, i64>;

/// Corrects the events of a request: all or none. The correcting events are published at once, or when NATS is available.
pub async fn create(admin: &Administration, new: NewCorrection) -> Result<Corrected, Error> {
    let reason = checked_name("reason", &new.reason)?;
    let by = checked_name("by", &new.by)?;
    let targets = targets(&new.events)?;
    let (account, correction) = (new.account_id, new.correction_id);
    // Before the query to ClickHouse, which a repeated request does not need.
    if let Some(repeated) = repeated(&admin.db, account, correction, &targets).await? {
        return Ok(repeated);
    }
    let known = sqlx::query_scalar!("select id from accounts where id = $1", account.0);
    if known.fetch_optional(&admin.db).await?.is_none() {
        return Err(Error::UnknownAccount(account.to_string()));
    }
    let ids: Vec<EventId> = targets.keys().copied().collect();
    let originals = originals::read(&admin.clickhouse, account, &ids).await?;

    let mut tx = admin.db.begin().await?;
    accounts::lock(&mut tx, account).await?;
    // The same request may have committed meanwhile.
    if let Some(repeated) = repeated(&mut *tx, account, correction, &targets).await? {
        return Ok(repeated);
    }
    let corrected = repository::corrected(&mut tx, account, &ids).await?;
    let rows = decide(account, correction, &targets, &originals, &corrected)?;
    repository::insert(&mut tx, account, correction, &rows, reason, by).await?;
    let delta_units: i64 = rows.iter().map(|row| row.delta_units).sum();
    let entry = audit::Entry {
        action: "usage.correct",
        account: Some(account),
        subject: correction.to_string(),
        details: json!({ "events": rows.len(), "delta_units": delta_units, "reason": reason }),
        actor: audit::Actor {
            name: Some(by),
            ..admin.actor()
        },
    };
    audit::record(&mut tx, entry).await?;
    let events = repository::of_request(&mut *tx, account, correction).await?;
    tx.commit().await?;
    info!(account.id = %account, correction.id = %correction, events = rows.len(), delta_units, by = %admin.by, "corrected usage");
    admin.corrections_wait.notify_one();
    Ok(answer(account, correction, events, false))
}

/// Lists corrections, oldest first.
pub async fn list(admin: &Administration, trail: Trail) -> Result<Listed<Correction>, Error> {
    let page = trail.page();
    let rows = repository::list(&admin.db, trail.account, page.after, page.rows()).await?;
    Ok(page.cut(rows, |row: &Correction| row.id.0))
}

async fn repeated(
    db: impl sqlx::PgExecutor<'_>,
    account: AccountId,
    correction: Uuid,
    targets: &Targets,
) -> Result<Option<Corrected>, Error> {
    let events = repository::of_request(db, account, correction).await?;
    if events.is_empty() {
        return Ok(None);
    }
    let before: Targets = events.iter().map(|event| (event.event_id, event.units_after)).collect();
    match before == *targets {
        true => Ok(Some(answer(account, correction, events, true))),
        false => Err(Error::CorrectionTaken(correction.to_string())),
    }
}

fn answer(account_id: AccountId, correction_id: Uuid, events: Vec<Correction>, repeated: bool) -> Corrected {
    Corrected {
        correction_id,
        account_id,
        delta_units: events.iter().map(|event| event.delta_units).sum(),
        events,
        repeated,
    }
}

fn targets(events: &[NewTarget]) -> Result<Targets, Error> {
    let bad = |rule: &str| Error::BadValue {
        field: "events",
        rule: rule.to_owned(),
    };
    if !(1..=EVENTS_MAX).contains(&events.len()) {
        return Err(bad(&format!(
            "must have 1 to {EVENTS_MAX} events of one account, got {}",
            events.len()
        )));
    }
    let mut targets = Targets::new();
    for event in events {
        let units = match (event.void, event.cost_units) {
            (true, None) => 0,
            (false, Some(units)) => units.get(),
            _ => return Err(bad("must each have either `\"void\": true` or `cost_units`")),
        };
        if targets.insert(event.event_id, units).is_some() {
            return Err(bad("must not contain an event twice"));
        }
    }
    Ok(targets)
}

/// Computes the rows that bring each event to its target. `corrected`: units by which each event was lowered before.
fn decide(
    account: AccountId,
    correction: Uuid,
    targets: &Targets,
    originals: &HashMap<EventId, Original>,
    corrected: &HashMap<EventId, i64>,
) -> Result<Vec<NewRow>, Error> {
    let row = |(event, target): (&EventId, &i64)| {
        let unknown = || Error::UnknownEvent {
            event: event.to_string(),
            account: account.to_string(),
        };
        let original = originals.get(event).ok_or_else(unknown)?;
        if !original.corrects.is_nil() {
            return Err(Error::CorrectsCorrection(event.to_string()));
        }
        let units = original.cost_units - corrected.get(event).copied().unwrap_or(0);
        let event_text = || event.to_string();
        match *target {
            target if target < units => Ok(NewRow {
                id: event_of(account, correction, *event).1,
                event: *event,
                delta_units: target - units,
                units_after: target,
                original: original.clone(),
            }),
            target if target == units => Err(Error::NothingToCorrect {
                event: event_text(),
                units,
            }),
            _ => Err(Error::NotLower {
                event: event_text(),
                units,
            }),
        }
    };
    targets.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(event: u128, void: bool, cost_units: Option<i64>) -> NewTarget {
        NewTarget {
            event_id: EventId(Uuid::from_u128(event)),
            void,
            cost_units: cost_units.and_then(Integer::new),
        }
    }

    #[test]
    fn a_target_is_void_or_units_and_each_event_appears_once() {
        let good = targets(&[target(1, true, None), target(2, false, Some(5))]).unwrap();
        assert_eq!(good.values().copied().collect::<Vec<_>>(), [0, 5]);
        let many: Vec<_> = (0..=EVENTS_MAX as u128).map(|n| target(n, true, None)).collect();
        assert!(targets(&many[1..]).is_ok());
        for bad in [
            &[][..],
            &many,
            &[target(1, true, Some(0))],
            &[target(1, false, None)],
            &[target(1, true, None), target(1, true, None)],
        ] {
            assert!(matches!(targets(bad), Err(Error::BadValue { field: "events", .. })));
        }
    }

    #[test]
    fn an_event_is_lowered_from_its_remaining_units_and_never_raised() {
        let (account, event) = (AccountId::new(), EventId::new());
        let decide_from = |cost, corrected_by, target| {
            let original = Original {
                cost_units: cost,
                ..originals::tests::original()
            };
            decide(
                account,
                Uuid::nil(),
                &Targets::from([(event, target)]),
                &HashMap::from([(event, original)]),
                &HashMap::from([(event, corrected_by)]),
            )
            .map(|rows| rows[0].delta_units)
        };
        for (cost, corrected, target, delta) in [(10, 0, 0, -10), (10, 0, 4, -6), (10, 6, 0, -4), (10, 6, 3, -1)] {
            assert_eq!(decide_from(cost, corrected, target).unwrap(), delta);
        }
        for (cost, corrected, target) in [(10, 10, 0), (10, 6, 4), (0, 0, 0), (10, 0, 10)] {
            assert!(matches!(
                decide_from(cost, corrected, target),
                Err(Error::NothingToCorrect { .. })
            ));
        }
        for (cost, corrected, target) in [(10, 0, 11), (10, 6, 5), (0, 0, 1)] {
            assert!(matches!(
                decide_from(cost, corrected, target),
                Err(Error::NotLower { units, .. }) if units == cost - corrected
            ));
        }
    }

    #[test]
    fn unknown_events_and_corrections_of_corrections_are_refused() {
        let (account, event) = (AccountId::new(), EventId::new());
        let decide = |originals: HashMap<EventId, Original>| {
            let targets = Targets::from([(event, 0)]);
            decide(account, Uuid::nil(), &targets, &originals, &HashMap::new())
        };
        assert!(matches!(decide(HashMap::new()), Err(Error::UnknownEvent { .. })));
        let correction = Original {
            corrects: EventId::new(),
            ..originals::tests::original()
        };
        let refused = decide(HashMap::from([(event, correction)]));
        assert!(matches!(refused, Err(Error::CorrectsCorrection(_))));
    }
}
