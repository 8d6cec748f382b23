//! Periodic jobs on what is already stored.
//!
//! | file | what it does |
//! |---|---|
//! | [`audit`] | compares the stream with the rows in ClickHouse |
//! | [`repair`] | stores missing rows and removes doubled ones |
//! | [`reread`] | reads stored records again, in bounded chunks |
//! | [`trim`] | removes stored records from the stream once they are old |
//! | [`close_days`], [`close_days_hourly`] | copy the sums of finished days and record the days as closed |

pub mod audit;
pub mod close_days;
pub mod close_days_hourly;
pub mod repair;
pub mod reread;
pub mod trim;
