//! The contract between the services: the nouns, the wire format, the names and the plans.
//!
//! Everything that two services must understand in the same way is defined here, once. Nothing here is async or does I/O:
//! no files, no network, no environment. The code reads the wall clock (in [`clock`], and for the time in new ids) and
//! takes random numbers for new ids and keys, nothing else. The `clippy.toml` of this crate enforces this promise.
//!
//! | noun | file |
//! |---|---|
//! | typed ids | [`id`] |
//! | API keys, `tr_live_…` | [`api_key`] |
//! | what a key allows | [`scope`] |
//! | usage types, plans and their limits (`plans.toml`) | [`catalogue`] |
//! | versions of plans: what an account pays and gets | [`plan_version`] |
//! | billing intervals and currencies | [`prices`] |
//! | half-open billing periods | [`period`] |
//! | subscriptions, and what an account may do now | [`subscription`] |
//! | what an account may use of one usage type | [`terms`] |
//! | what a quota pool counts | [`pool_type`] |
//! | the most that an account wants to pay | [`spend_cap`] |
//! | one metered request | [`usage_event`] |
//! | the records of a lane: open, batch, fence, close | [`lane_record`] |
//! | how far a shard is stored | [`manifest`] |
//! | subjects, streams and buckets | [`names`] |
//! | announcements between services | [`announcement`] |
//! | messages by which gateways recall units from each other | [`recall`] |
//! | the tables of ClickHouse | [`clickhouse`] |
//! | the only place that reads the clock | [`clock`] |
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
pub mod plan_version;
pub mod pool_type;
pub mod prices;
pub mod recall;
pub mod scope;
pub mod spend_cap;
pub mod subscription;
pub mod terms;
pub mod usage_event;

pub use catalogue::{Burst, Catalogue, Mode, Plan, UsageType};
pub use id::{AccountId, BatchId, EventId, KeyId, LeaseId, RunId, SubscriptionId};
pub use lane_record::LaneRecord;
pub use manifest::Manifest;
pub use period::Period;
pub use plan_version::{PlanTerms, PlanVersion};
pub use pool_type::PoolType;
pub use prices::{Currency, Interval};
pub use scope::{Scope, Scopes};
pub use spend_cap::SpendCap;
pub use subscription::CurrentPlan;
pub use terms::Terms;
pub use usage_event::UsageEvent;
