//! The only SQL on `quota_pool`, `quota_leases` and `gateway_runs`, and the one owner of their lock order.
//!
//! | noun | table | module |
//! |---|---|---|
//! | pool: the units of one account, usage type and period | `quota_pool` | [`pools`] |
//! | lease: units that a writer took from a pool | `quota_leases` | [`leases`] |
//! | writer: one start of a gateway or of a billing worker's session; it owns lanes and leases | `gateway_runs` | [`writers`] |
//!
//! A billed pool has the billed units of a usage type in one segment. Its limit is the account's spend cap ([`caps`]), which all
//! billed pools of a period share.
//!
//! [`spooling`] has the statements by which a writer says that it records to its spool. [`limits`] has the reads that join
//! pools with plans, overrides and notices, and [`segments`] those that find the pool of recorded usage.
//!
//! # Lock order
//!
//! Every transaction that locks rows of these tables locks them in this order. Two transactions that follow it cannot wait
//! for each other.
//!
//! 1. The account rows (`accounts`), by id. The caller locks them.
//! 2. The writer's row.
//! 3. The spend caps, by account ([`caps::lock`]).
//! 4. The pools, by account, usage type and period start ([`pools::lock`]).
//! 5. The leases, by id.
//!
//! A transaction may skip steps, but never goes back. Rows of other tables (`corrections`, `duplicate_cursors`) are locked
//! before the pools.
//!
//! | transaction | who runs it | locks, in order |
//! |---|---|---|
//! | grant: give units back, then take new leases | gateway | writer (share), spend caps, pools, leases |
//! | open pools for a new period ([`pools::open`]) | gateway | accounts (share), then inserts pools |
//! | settle leases of a writer that ended ([`leases::settle`]) | billing worker | writer (share), pools, leases |
//! | change limits | billing worker | accounts, pools |
//! | set a spend cap, and count what was used before ([`caps::count`]) | billing worker | accounts, spend caps, pools |
//! | give units of corrections back ([`pools::give_back`]) | billing worker | `corrections`, pools |
//! | give units of duplicates back ([`pools::give_back`]) | billing worker | `duplicate_cursors`, pools |
//! | give up a writer whose spool is lost | billing worker | writer (update) |
//!
//! All other functions are single statements. Those that change a writer lock its row only, so they wait for a grant that
//! holds the row in share mode.
//!
//! The functions set no time limit of their own unless they say so: the caller bounds each call.

pub mod caps;
pub mod leases;
pub mod limits;
pub mod pools;
pub mod segments;
pub mod spooling;
pub mod writers;
