//! Stripe, as this service speaks to it: async-stripe's typed requests over a transport of our own, and of its answers the few
//! fields that are needed.
//!
//! | what | file |
//! |---|---|
//! | settings: key, address, time-outs, rates | [`settings`] |
//! | one call: kept-alive connections, time-out, retries, rates | [`transport`] |
//! | what can go wrong with a call, and what it proves | [`error`] |
//! | what is read of Stripe's objects | [`object`] |
//! | what our things are called there | [`names`] |
//! | the plan catalogue as products, prices and meters | [`catalogue`] |
//!
//! The answers are not read with async-stripe's own types: there one field that is missing loses the whole answer, and a
//! success that cannot be read has happened all the same.

pub mod catalogue;
pub mod error;
pub mod names;
pub mod object;
pub mod settings;
pub mod transport;

pub use error::StripeError;
pub use settings::StripeSettings;
pub use transport::{Stripe, Write};
