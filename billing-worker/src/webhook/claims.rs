//! Claims on events of the inbox: rows with a deadline in the database's time. A worker renews its claims while it works. The
//! claims of a dead worker expire after [`LENGTH_S`].

use sqlx::PgPool;
use uuid::Uuid;

use crate::error::Error;

/// Two renewals may fail before another worker claims the events.
const LENGTH_S: i32 = 30;
/// Maximum number of due events that one claim reads. The next claim follows at once and reads the others.
const WINDOW: i64 = 512;

/// An event to work on.
#[derive(Clone, Debug)]
pub struct Received {
    pub id: String,
    pub kind: String,
    pub object_id: Option<String>,
    pub customer_id: Option<String>,
    /// This one included.
    pub attempts: i32,
}

/// Events of one customer, which are processed together, or one event without a customer.
#[derive(Debug)]
pub(super) struct Group {
    pub customer: Option<String>,
    pub events: Vec<Received>,
    claim: Uuid,
}

/// The result of an attempt, as it is stored.
#[derive(Clone, Debug)]
pub(super) enum Settlement {
    /// It was applied, or it concerns no account here.
    Done {
        is_applied: bool,
    },
    /// It was not processed, so this is not an attempt.
    Postponed {
        delay_s: i64,
    },
    Failed {
        why: String,
        delay_s: i64,
    },
    Parked {
        why: String,
    },
}

/// Claims due events of up to `most` customers, the longest due first. Customers with an event that is claimed already are left
/// out, so each customer has at most one group in all workers.
pub(super) async fn claim(db: &PgPool, most: usize) -> Result<Vec<Group>, Error> {
    let claim = Uuid::new_v4();
    let events = sqlx::query_as!(
        Received,
        r#"with due as (
               select id, coalesce(customer_id, id) as about, next_attempt_at from webhook_events e
               where state = 'received' and next_attempt_at <= now() and (claimed_until is null or claimed_until <= now())
                   and not exists (select from webhook_events c
                       where c.customer_id = e.customer_id and c.claimed_until > now())
               order by next_attempt_at limit $3
           ), next as (
               select about from due group by about order by min(next_attempt_at) limit $2
           ), free as (
               select e.id from webhook_events e join due on due.id = e.id join next on next.about = due.about
               where e.state = 'received' and (e.claimed_until is null or e.claimed_until <= now())
               for update of e skip locked
           )
           update webhook_events e
           set attempts = attempts + 1, claimed_by = $1, claimed_until = now() + make_interval(secs => $4)
           from free where e.id = free.id
           returning e.id, e.type as kind, e.object_id, e.customer_id, e.attempts"#,
        claim,
        i64::try_from(most).unwrap_or(i64::MAX),
        WINDOW,
        f64::from(LENGTH_S)
    )
    .fetch_all(db)
    .await?;
    Ok(grouped(events, claim))
}

/// Renews the claim on a group. `false`: another worker has claimed all of it.
pub(super) async fn renew(db: &PgPool, group: &Group) -> Result<bool, Error> {
    let renewed = sqlx::query!(
        "update webhook_events set claimed_until = now() + make_interval(secs => $3) where id = any($1) and claimed_by = $2",
        &group.events.iter().map(|event| event.id.clone()).collect::<Vec<_>>(),
        group.claim,
        f64::from(LENGTH_S)
    )
    .execute(db)
    .await?;
    Ok(renewed.rows_affected() > 0)
}

/// Stores the result of an event and ends the claim on it. If another worker has claimed it, nothing is written.
pub(super) async fn settle(db: &PgPool, group: &Group, event: &Received, settlement: &Settlement) -> Result<(), Error> {
    let (state, delay_s, why, is_attempt) = match settlement {
        Settlement::Done { is_applied: true } => ("done", None, None, true),
        Settlement::Done { is_applied: false } => ("ignored", None, None, true),
        Settlement::Postponed { delay_s } => ("received", Some(*delay_s), None, false),
        Settlement::Failed { why, delay_s } => ("received", Some(*delay_s), Some(why.as_str()), true),
        Settlement::Parked { why } => ("parked", None, Some(why.as_str()), true),
    };
    sqlx::query!(
        "update webhook_events
         set state = $3, claimed_by = null, claimed_until = null, attempts = attempts - (not $6)::int,
             done_at = case when $3 <> 'received' then now() end,
             -- A postponed event keeps the error of its last attempt.
             error = case when $6 then $5 else error end,
             next_attempt_at = case when $4::bigint is null then next_attempt_at
                                    else now() + make_interval(secs => $4::bigint) end
         where id = $1 and claimed_by = $2 and state = 'received'",
        event.id,
        group.claim,
        state,
        delay_s,
        why,
        is_attempt
    )
    .execute(db)
    .await?;
    Ok(())
}

fn grouped(events: Vec<Received>, claim: Uuid) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for event in events {
        let known = groups
            .iter_mut()
            .find(|group| event.customer_id.is_some() && group.customer == event.customer_id);
        match known {
            Some(group) => group.events.push(event),
            None => groups.push(Group {
                customer: event.customer_id.clone(),
                events: vec![event],
                claim,
            }),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_one_customer_form_a_group_and_so_does_an_event_without_a_customer() {
        let event = |id: &str, customer: Option<&str>| Received {
            id: id.to_owned(),
            kind: String::new(),
            object_id: None,
            customer_id: customer.map(str::to_owned),
            attempts: 1,
        };
        let events = vec![
            event("1", Some("ada")),
            event("2", None),
            event("3", Some("bob")),
            event("4", Some("ada")),
            event("5", None),
        ];
        let groups = grouped(events, Uuid::nil());
        let ids = groups.iter().map(|group| {
            let ids: Vec<&str> = group.events.iter().map(|event| event.id.as_str()).collect();
            ids.join(" ")
        });
        assert_eq!(ids.collect::<Vec<_>>(), ["1 4", "2", "3", "5"]);
    }
}
