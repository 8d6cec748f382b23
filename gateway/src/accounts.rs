//! The cache of API keys and accounts.
//!
//! | to find | open |
//! |---|---|
//! | one look-up for each request | [`cache`] |
//! | a key, and its burst limit | [`key`], [`burst`] |
//! | an account: its rows, and what they allow | [`account`], `spend` |
//! | plan versions in memory | `versions` |
//! | the rows in PostgreSQL; reading them again | `stored`, [`refresh`] |
//! | changes that other services announce, and those that are not read yet | [`announcements`], `unread` |
//!
//! A key or an account that was announced as changed is not served before it was read again: see [`protocol::doubt`].

pub mod account;
pub mod announcements;
pub mod burst;
pub mod cache;
pub mod key;
mod key_metrics;
pub mod refresh;
pub(crate) mod spend;
mod stored;
mod unread;
mod versions;

pub use cache::{AccountSettings, Accounts, AuthError};
