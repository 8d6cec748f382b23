//! The agreement between the services: the nouns, the wire format, the names and the plans.
//!
//! Everything that two services must understand alike is described here once; nothing here does I/O or knows async.
//!
//! | noun | file |
//! |---|---|
//! | typed ids | [`id`] |
//! | API keys, `tr_live_…` | [`api_key`] |
//! | usage types, plans and their limits (`plans.toml`) | [`catalogue`] |
//! | half-open billing periods | [`period`] |
//! | what an account may do now | [`standing`] |
//! | one metered request | [`usage_event`] |
//! | what a lane carries: open, batch, fence, close | [`lane_record`] |
//! | how far a shard is stored | [`manifest`] |
//! | subjects, streams and buckets | [`names`] |
//! | what is announced between services | [`announcement`] |
//! | how gateways ask each other for units | [`recall`] |
//! | the tables of ClickHouse, and where they live | [`clickhouse`] |
//! | the one place that reads the clock | [`clock`] |
//!
//! `postgres/` holds the migrations, `clickhouse/` the DDL, `fixtures/` the golden bytes of the wire format.

pub mod announcement;
pub mod api_key;
pub mod base62;
pub mod catalogue;
pub mod clickhouse;
pub mod clock;
pub mod id;
pub mod lane_record;
pub mod manifest;
pub mod names;
pub mod period;
pub mod recall;
pub mod standing;
pub mod usage_event;

pub use catalogue::{Burst, Catalogue, Mode, Plan, UsageType};
pub use id::{AccountId, BatchId, EventId, KeyId, LeaseId, RunId, SubscriptionId};
pub use lane_record::LaneRecord;
pub use manifest::Manifest;
pub use period::Period;
pub use standing::Standing;
pub use usage_event::UsageEvent;
