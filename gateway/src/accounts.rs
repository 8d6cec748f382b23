//! Keys and accounts.
//!
//! | to find | open |
//! |---|---|
//! | one look-up a request, cached | [`cache`] |
//! | an account and its keys, as the gateway knows them | [`account`] |
//! | keys and accounts in Postgres; reading them again | `stored`, `refresh` |
//! | what other services announce | [`announcements`] |
//! | how quickly one key may send requests | [`burst`] |

pub mod account;
pub mod announcements;
pub mod burst;
pub mod cache;
mod refresh;
mod stored;

pub use cache::{AccountSettings, Accounts, AuthError};
