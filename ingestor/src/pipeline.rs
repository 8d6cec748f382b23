//! Turns the records of one shard into rows in ClickHouse.
//!
//! | step | module |
//! |---|---|
//! | run one shard through all steps below | [`work`] |
//! | read records in order, decode them | [`reader`], [`read_ahead`], [`content`], [`record`] |
//! | gather records, seal a range | [`gathering`], [`range`](mod@range) ([`protocol::range`] decides) |
//! | drop events whose `Idempotency-Key` is already stored | [`stored_before`] ([`protocol::duplicates`] decides) |
//! | store one range until all its rows are verified | [`store`], [`fence`] |
//! | insert rows, verify rows | [`row`], [`sink`], [`verify`] |
//! | keep records that cannot be decoded | [`dead_letter`] |

pub mod content;
pub mod continuity;
pub mod dead_letter;
pub mod fence;
pub mod gathering;
pub mod range;
pub mod read_ahead;
pub mod reader;
pub mod record;
pub mod row;
pub mod sink;
pub mod store;
pub mod stored_before;
pub mod verify;
pub mod work;
