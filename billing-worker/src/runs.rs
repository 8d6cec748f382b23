//! Ends runs whose writer died, and returns the unspent units of their leases.
//!
//! | what | file |
//! |---|---|
//! | which runs are silent, by this worker's own observation; pure | [`silence`] |
//! | the loop that looks for silent runs | [`watch`] |
//! | end their lanes; check whether the ingestor has stored all their events | [`crate::stored::lanes`] |
//! | count the spent units of leases in ClickHouse | [`count`] |
//! | return the unspent units | [`leases`] |
//! | the loop that does all of this for each unsettled run | [`work`] |
//! | what operators see and may do | [`operator`] |
//! | settings and metrics | [`settings`], [`metrics`] |
//!
//! # The order of the steps
//! 1. If this worker sees the same heartbeat of a live run in repeated checks for `RUN_DEAD_AFTER`, one conditional update sets
//!    the run to `fencing`. After its commit the run can neither take nor return leases (both lock the run's row), so its set of
//!    live leases is final. A spooling run never counts as dead.
//! 2. A **fence** ends each lane of the run. From then on NATS refuses everything that the run still sends, so the content of
//!    the lane is final. This does not depend on any clock. A run that was only slow finds its fence, drops its leases and
//!    continues as a new run.
//! 3. When the ingestor has passed every fence, ClickHouse has every event of the run, stored or dropped as a duplicate.
//! 4. Each live lease returns units − units given back before − counted units to its pool. One transaction also changes the
//!    lease's state, so this happens once, even if several workers do it at the same time.
//! 5. When the run has no live lease, it becomes `settled`.
//!
//! This order keeps the limits: units of a lease that is settled before the fence, or kept after it, could be spent twice. Any
//! worker can repeat each step at any time. A worker only remembers when to try a run next.
//!
//! # Exceptions
//! - A lease whose counted units exceed its units is not settled. Rows may be stored twice: then the ingestor's audit repairs
//!   them within the hour, and the lease is settled. Otherwise an operator must look into it. Until then the lease stays live,
//!   and the run stays `fencing`.
//! - A lease that was granted longer than [`leases::COUNTED_FOR`] ago cannot be counted, because its first rows may have been
//!   deleted. It is settled as fully spent, and an error is logged. (Rows are kept for at least 28 days, and settling takes two
//!   minutes, so this happens only if ClickHouse or NATS was unavailable for weeks.)
//! - A spooling run is not settled: its gateway drains the spool at the next start. If the spool is lost, an operator gives the
//!   run up ([`operator::give_up`]).

pub mod count;
pub mod leases;
pub mod metrics;
pub mod operator;
pub mod settings;
pub mod silence;
pub mod watch;
pub mod work;

pub use metrics::SettleMetrics;
pub use settings::SettleSettings;
