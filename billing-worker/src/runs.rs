//! Ends runs whose writer died, and returns the unspent units of their leases.
//!
//! | what | file |
//! |---|---|
//! | which runs are silent, by this worker's own observation; pure | [`silence`] |
//! | the loop that looks for silent runs | [`watch`] |
//! | end their lanes; check whether the ingestor has stored all their events | [`lanes`] |
//! | count in ClickHouse what leases spent | [`count`] |
//! | return the rest | [`leases`] |
//! | the loop that does all of this for each unsettled run | [`work`] |
//! | states; what operators see and may do | [`state`], [`operator`] |
//! | settings and metrics | [`settings`], [`metrics`] |
//!
//! # In this order, whoever dies in between
//! 1. A live run whose heartbeat did not move while this worker saw it, again and again, for `RUN_DEAD_AFTER` becomes `fencing`,
//!    in one conditional update. From its commit on the run gets no lease and gives none back (whoever grants holds the row's
//!    lock), so its live leases are all that there are. A run that spools is never taken for dead.
//! 2. Each of its lanes is ended by a **fence**. From then on NATS refuses whatever the run still sends: what the lane holds is
//!    final. No clock says so. A run that was only slow finds its fence, drops its leases and goes on as a new run.
//! 3. Once the ingestor has passed every fence, ClickHouse has every event of the run, stored or dropped as a duplicate.
//! 4. Of each live lease: units − given back before − counted = what goes back to its pool; in one transaction with the lease's
//!    state, so once, however many workers do it at the same time.
//! 5. When no lease of it is live, the run is `settled`.
//!
//! The order is what holds a limit: leases that are settled before the fence, or kept after it, are spent twice. Each step can
//! be done again and by anybody; a worker remembers nothing of a run but when to try it next.
//!
//! # What is not settled by itself
//! - A lease that is counted to have spent more than it had. Something is doubled or wrong: rows that stand twice are mended by
//!   the ingestor's audit within the hour, and then the lease is settled; else somebody has to look. Until then it stays live,
//!   and the run `fencing`.
//! - A lease from before [`leases::COUNTED_FOR`]: its first rows may have been deleted, so its count proves nothing. It is
//!   settled as wholly spent, and told. (Rows are kept for 28 days at the least, and settling takes two minutes: this is for a
//!   ClickHouse or a NATS that was away for weeks.)
//! - A run that spools: its gateway drains it at the next start. If the spool is lost, an operator gives it up ([`operator::give_up`]).

pub mod count;
pub mod lanes;
pub mod leases;
pub mod metrics;
pub mod operator;
pub mod settings;
pub mod silence;
pub mod state;
pub mod watch;
pub mod work;

pub use metrics::SettleMetrics;
pub use settings::SettleSettings;
