//! Usage notices: when usage reaches a threshold of a limit, the account receives one signed POST to its URL, and a message is
//! published on NATS.
//!
//! | what | file |
//! |---|---|
//! | settings | [`settings`] |
//! | the background tasks | [`tasks`] |
//! | compare usage with limits | [`watch`], [`usage`], [`threshold`] |
//! | the body of a notice | [`message`] |
//! | its row: inserted once, claimed, settled, published | [`outbox`] |
//! | the account's URL and secrets | [`endpoint`] |
//! | send due notices | [`courier`] |
//! | one delivery attempt | [`delivery`] |
//! | when to retry, when to give up | [`schedule`] |
//! | secrets and signatures | [`signature`] |
//! | connect to the checked address | [`connector`] |
//! | which addresses are refused | [`address`] |
//! | list, test and replay notices | [`operator`] |
//! | metrics | [`metrics`] |
//!
//! # Invariants
//! - There is at most one row for an account, usage type, period and threshold, even if the limit is raised: a table constraint
//!   ensures it.
//! - A notice reports stored usage only, never units that gateways hold.
//! - An attempt connects to an address that was checked, over the connection that was made to it.
//! - A secret appears only in the response to its creation and in `notice_secrets`. No log contains a secret or a URL.

pub mod address;
pub mod connector;
pub mod courier;
pub mod delivery;
pub mod endpoint;
pub mod message;
pub mod metrics;
pub mod operator;
pub mod outbox;
pub mod schedule;
pub mod settings;
pub mod signature;
pub mod tasks;
pub mod threshold;
pub mod usage;
pub mod watch;
