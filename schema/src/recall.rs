//! Messages between gateways about units, over core NATS. A gateway that is about to refuse a request asks the others for the
//! units that they hold. When requests of a gateway fail, the gateway reports that their units can be spent again.
//!
//! A [`Recall`] goes to all gateways, on `names::RECALLS`, with a reply subject of the asking gateway. Each gateway that it names
//! as a holder answers there with a [`RecallAnswer`]. The others only learn that the pool is nearly spent. A recall only speeds
//! things up: the asking gateway decides by the numbers in PostgreSQL.
//!
//! [`CameBack`] goes to all gateways, on `names::CAME_BACK`, from gateways that were asked within the last minute, because a
//! gateway may remember that fewer than n units remain. Unlike `Announcement::UnitsReturned` it has the number of units, so that
//! one returned unit does not make all gateways ask again for a thousand.

use serde::{Deserialize, Serialize};

use uuid::Uuid;

use crate::{AccountId, RunId};

/// Payload: JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recall {
    pub account_id: AccountId,
    /// The name of the pool's type ([`crate::PoolType::name`]).
    pub usage_type: String,
    /// Seconds since the Unix epoch.
    pub period_start: i64,
    /// The runs that hold leases of this pool, according to PostgreSQL. These answer.
    pub holders: Vec<RunId>,
}

/// Payload: JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecallAnswer {
    pub run_id: RunId,
    pub outcome: RecallOutcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecallOutcome {
    /// It held unspent units. Its counter is closed, and the units are back in the pool.
    Returned,
    /// It held none: its units are spent, or reserved by running requests.
    Nothing,
    /// It may hold some, and cannot give them back now.
    Cannot,
}

/// Payload: JSON. Units of requests that ended without spending their reservation, since the last message of the sender.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CameBack {
    /// Identifies the sender, so that it recognises its own messages.
    pub sender: Uuid,
    pub account_id: AccountId,
    /// The name of the pool's type ([`crate::PoolType::name`]).
    pub usage_type: String,
    pub units: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gateways_of_all_versions_read_the_same_json() {
        let run = RunId(Uuid::from_u128(2));
        let recall = Recall {
            account_id: AccountId(Uuid::from_u128(1)),
            usage_type: "api_call".to_owned(),
            period_start: 1_790_812_800,
            holders: vec![run],
        };
        let text = r#"{"account_id":"00000000-0000-0000-0000-000000000001","usage_type":"api_call","period_start":1790812800,"holders":["00000000-0000-0000-0000-000000000002"]}"#;
        assert_eq!(serde_json::to_string(&recall).unwrap(), text);
        assert_eq!(serde_json::from_str::<Recall>(text).unwrap(), recall);

        for (outcome, name) in [
            (RecallOutcome::Returned, "returned"),
            (RecallOutcome::Nothing, "nothing"),
            (RecallOutcome::Cannot, "cannot"),
        ] {
            let answer = RecallAnswer { run_id: run, outcome };
            let text = format!(r#"{{"run_id":"00000000-0000-0000-0000-000000000002","outcome":"{name}"}}"#);
            assert_eq!(serde_json::to_string(&answer).unwrap(), text);
            assert_eq!(serde_json::from_str::<RecallAnswer>(&text).unwrap(), answer);
        }

        let came_back = CameBack {
            sender: Uuid::from_u128(3),
            account_id: recall.account_id,
            usage_type: recall.usage_type,
            units: 7,
        };
        let text = r#"{"sender":"00000000-0000-0000-0000-000000000003","account_id":"00000000-0000-0000-0000-000000000001","usage_type":"api_call","units":7}"#;
        assert_eq!(serde_json::to_string(&came_back).unwrap(), text);
        assert_eq!(serde_json::from_str::<CameBack>(text).unwrap(), came_back);
    }
}
