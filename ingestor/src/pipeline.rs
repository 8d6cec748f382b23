//! From the records of one shard to its rows in ClickHouse.
//!
//! | file | what it does |
//! |---|---|
//! | [`work`] | runs one shard: read, gather, seal, insert, verify |
//! | [`reader`], [`read_ahead`], [`content`] | read and decode records in order |
//! | [`range`](mod@range) | gathers records and cuts ranges (pure) |
//! | [`duplicates`], [`stored_before`] | find events whose `Idempotency-Key` is already stored |
//! | [`store`] | stores one range: inserts it until all its rows are verified |
//! | [`row`], [`sink`], [`verify`] | the columns, the insert, and the check of what ClickHouse holds |
//! | [`dead_letter`] | keeps records that cannot be decoded |

pub mod content;
pub mod dead_letter;
pub mod duplicates;
pub mod range;
pub mod read_ahead;
pub mod reader;
pub mod row;
pub mod sink;
pub mod store;
pub mod stored_before;
pub mod verify;
pub mod work;
