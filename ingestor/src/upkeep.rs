//! Periodic jobs on stored records.
//!
//! | job | module |
//! |---|---|
//! | notice that ClickHouse lost rows | [`behind`] |
//! | compare the stream with the rows in ClickHouse | [`audit`], [`difference`] |
//! | audit periodically, or by a sub-command | [`hourly`], [`command`] |
//! | store missing rows, remove doubled rows | [`catch_up`], [`repair`] |
//! | list and accept rows that no replay can bring back | [`losses`] |
//! | find the events that an earlier generation stored | [`earlier`] |
//! | find events that two generations stored | [`repeated`] |
//! | remove stored records from the stream once they are old | [`trim`] |
//! | copy the sums of finished days, record the days as closed | [`close_days`] |
//! | notice that a shard stores nothing | [`stalled`] |
//! | read stored records again, in bounded chunks | [`reread`] |

pub mod audit;
pub mod behind;
pub mod catch_up;
pub mod close_days;
pub mod command;
pub mod difference;
pub mod earlier;
pub mod hourly;
pub mod losses;
pub mod repair;
pub mod repeated;
pub mod reread;
pub mod stalled;
pub mod trim;
