//! Which ingestor owns which shard.
//!
//! | step | module |
//! |---|---|
//! | know which ingestors are alive, and which shards each should own | [`members`] ([`protocol::members`] decides) |
//! | start and stop work on shards as members come and go | [`assign`] |
//! | claim one shard, work on it, give it up | [`own`] |
//! | decide when a shard may be claimed, and where its work begins | [`protocol::claim`] |

pub mod assign;
pub mod members;
pub mod own;
