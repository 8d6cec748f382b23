//! The client of Stripe: async-stripe's typed requests over a transport of our own. Only the needed fields of the responses are
//! read.
//!
//! | what | file |
//! |---|---|
//! | settings: key, address, time-outs, rates | [`settings`] |
//! | one call: kept-alive connections, time-out, retries | [`transport`] |
//! | a request that async-stripe's crates here do not have | [`raw`] |
//! | a response, and what it proves | [`response`] |
//! | the rates of all calls, and whose call is next | [`queue`] |
//! | how a call can fail, and whether it took effect | [`error`] |
//! | why Stripe refused a call | [`reason`] |
//! | how many calls it refused, by reason | [`metrics`] |
//! | amounts with decimals | [`decimal`] |
//! | the fields of Stripe's objects that are read | [`object`] |
//! | the names of our objects in Stripe | [`names`] |
//! | the plan catalogue as products, prices and meters | [`catalogue`] |
//!
//! Responses are not read with async-stripe's own types. There, one missing field makes the whole response unreadable, although
//! the call took effect.

pub mod catalogue;
pub mod decimal;
pub mod error;
pub mod metrics;
pub mod names;
pub mod object;
pub mod queue;
mod raw;
pub mod reason;
mod response;
pub mod settings;
pub mod transport;

pub use error::StripeError;
pub use metrics::StripeMetrics;
pub use queue::class::Class;
pub use raw::Raw;
pub use reason::Reason;
pub use settings::StripeSettings;
pub use transport::{Stripe, Write};
