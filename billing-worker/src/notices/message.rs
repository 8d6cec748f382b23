//! The body of a notice, in its request and in its NATS message.

use std::{fmt, str::FromStr};

use schema::{AccountId, Period, UsageType, id::NoId, period::instant};
use serde::Serialize;
use time::OffsetDateTime;
use uuid::Uuid;

/// Identifies a notice in every attempt and replay: the `webhook-id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct NoticeId(pub Uuid);

/// A threshold that usage has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reached {
    pub account: AccountId,
    pub usage_type: UsageType,
    pub period: Period,
    pub threshold_percent: u16,
    /// Stored units at the time of the comparison.
    pub current_usage: i64,
    /// The limit in force at that time.
    pub limit: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    ThresholdReached,
    Test,
}

impl NoticeId {
    /// Creates an id. Ids sort by creation time (UUID version 7).
    #[expect(clippy::new_without_default, reason = "two calls differ, so it is not a default")]
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }
}

impl fmt::Display for NoticeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for NoticeId {
    type Err = NoId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self).map_err(|_| NoId)
    }
}

impl From<Uuid> for NoticeId {
    fn from(uuid: Uuid) -> Self {
        Self(uuid)
    }
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ThresholdReached => "usage.threshold_reached",
            Self::Test => "usage.test",
        }
    }
}

impl Reached {
    pub fn message(&self, now: i64) -> String {
        text(
            Kind::ThresholdReached,
            now,
            Data {
                account_id: self.account,
                usage_type: self.usage_type.name(),
                threshold_percent: self.threshold_percent,
                current_usage: self.current_usage,
                limit: self.limit,
                period_start: instant(self.period.start),
                period_end: instant(self.period.end),
            },
        )
    }
}

/// The body of a test notice.
pub fn test(account: AccountId, now: i64) -> String {
    #[derive(Serialize)]
    struct Data {
        account_id: AccountId,
    }
    text(Kind::Test, now, Data { account_id: account })
}

#[derive(Serialize)]
struct Message<D> {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(with = "time::serde::rfc3339")]
    timestamp: OffsetDateTime,
    data: D,
}

#[derive(Serialize)]
struct Data {
    account_id: AccountId,
    usage_type: &'static str,
    threshold_percent: u16,
    current_usage: i64,
    limit: i64,
    #[serde(with = "time::serde::rfc3339")]
    period_start: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    period_end: OffsetDateTime,
}

fn text(kind: Kind, now: i64, data: impl Serialize) -> String {
    let message = Message {
        kind: kind.as_str(),
        timestamp: instant(now),
        data,
    };
    serde_json::to_string(&message).expect("names and numbers, and years of four digits, have a JSON form")
}

#[cfg(test)]
mod tests {
    use schema::Catalogue;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn the_body_has_the_documented_form() {
        let reached = Reached {
            account: AccountId(Uuid::from_u128(1)),
            usage_type: Catalogue::built_in().usage_type("export").unwrap(),
            period: Period {
                start: 1_793_491_200,
                end: 1_796_083_200,
            },
            threshold_percent: 80,
            current_usage: 84,
            limit: 100,
        };
        assert_eq!(
            reached.message(1_794_000_000),
            r#"{"type":"usage.threshold_reached","timestamp":"2026-11-06T21:20:00Z","data":{"account_id":"00000000-0000-0000-0000-000000000001","usage_type":"export","threshold_percent":80,"current_usage":84,"limit":100,"period_start":"2026-11-01T00:00:00Z","period_end":"2026-12-01T00:00:00Z"}}"#
        );
    }
}
