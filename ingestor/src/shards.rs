//! Who has which shard.
//!
//! | file | what it does |
//! |---|---|
//! | [`members`] | knows which ingestors are alive and which shards each should have |
//! | [`assign`] | starts and stops work on shards as members come and go |
//! | [`own`] | takes one shard, works on it, and gives it up |
//! | [`claim`] | decides when a shard may be taken and where its work begins (pure) |

pub mod assign;
pub mod claim;
pub mod members;
pub mod own;
