//! Periodic jobs on stored records.
//!
//! | job | module |
//! |---|---|
//! | compare the stream with the rows in ClickHouse, repair differences | [`audit`], [`repair`] |
//! | find the events that an earlier generation stored | [`earlier`] |
//! | find events that two generations stored | [`repeated`] |
//! | remove stored records from the stream once they are old | [`trim`] |
//! | copy the sums of finished days, record the days as closed | [`close_days`] |
//! | read stored records again, in bounded chunks | [`reread`] |

pub mod audit;
pub mod close_days;
pub mod earlier;
pub mod repair;
pub mod repeated;
pub mod reread;
pub mod trim;
