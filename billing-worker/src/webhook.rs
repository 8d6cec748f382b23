//! Events from Stripe are verified, stored, acknowledged, and then processed. Only the ids in an event's payload are used. The
//! objects that they name are fetched again, so events may arrive twice, late and in any order.
//!
//! | what | file |
//! |---|---|
//! | who signed it, and when | [`crate::http::webhook::signature`] |
//! | the ids in a payload, in any of its forms | [`envelope`] |
//! | `POST /billing/webhooks/stripe`: verify, store, answer | [`crate::http::webhook::receive`] |
//! | the effect of an event | [`effect`] |
//! | the rows: stored, deleted, tried again | [`inbox`] |
//! | claims on rows, and the result of the work | [`claims`] |
//! | processing claimed events | [`worker`] |
//! | events that fail, for an operator | [`failing`] |
//! | events that were never delivered | [`catch_up`] |
//! | subscriptions compared with Stripe, without an event | [`comparison`] |

pub mod catch_up;
pub(crate) mod claims;
pub mod comparison;
pub mod effect;
pub mod envelope;
pub mod failing;
pub mod inbox;
pub mod worker;
