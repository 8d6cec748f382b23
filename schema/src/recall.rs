//! What gateways tell each other of units, over core NATS: one that is about to refuse a request asks the others for what they
//! hold, and one whose requests failed says what can be spent again.
//!
//! A [`Recall`] goes to all gateways, on [`crate::names::RECALLS`], with a reply subject of the asker's. Those that it names
//! as holders answer there with a [`RecallAnswer`] each; the others only learn that the pool is nearly spent. Like an
//! announcement it makes things quick, never true: the asker believes what Postgres then says.
//!
//! [`CameBack`] goes to all gateways, on [`crate::names::CAME_BACK`], from those that were asked within the last minute:
//! somebody may remember "fewer than n units remain". Unlike [`crate::announcement::Announcement::UnitsReturned`] it says
//! how many, so that one unit does not make everybody ask again for a thousand.

use serde::{Deserialize, Serialize};

use uuid::Uuid;

use crate::{AccountId, RunId};

/// Payload: JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recall {
    pub account_id: AccountId,
    /// The catalogue's name.
    pub usage_type: String,
    /// Unix seconds.
    pub period_start: i64,
    /// Runs that hold leases of this pool, as Postgres said: these answer.
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
    /// It held unspent units: its counter is closed, and Postgres has them back.
    Returned,
    /// It held none; what it had is spent, or reserved by requests under way.
    Nothing,
    /// It may hold some and cannot give them back now.
    Cannot,
}

/// Payload: JSON. Units of requests that ended without spending what they had reserved, since the sender's last word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CameBack {
    /// The gateway's own name for itself, by which it knows its own words.
    pub sender: Uuid,
    pub account_id: AccountId,
    /// The catalogue's name.
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
