//! What Stripe tells us: verified, stored, answered; then worked on. An event is a hint to look: of its payload only ids are
//! used, and what they name is fetched afresh, so events may come twice, late and in any order.
//!
//! | what | file |
//! |---|---|
//! | who signed it, and when | [`signature`] |
//! | the ids in a payload, in any of its forms | [`envelope`] |
//! | `POST /billing/webhooks/stripe`: verify, store, answer | [`receive`] |
//! | what an event leads to | [`effect`] |
//! | the rows: stored, forgotten, tried again | [`inbox`] |
//! | claims on rows, and what becomes of them | [`claims`] |
//! | working on what is claimed | [`worker`] |
//! | events that were never delivered | [`catch_up`] |
//! | subscriptions compared with Stripe, without an event | [`comparison`] |

pub mod catch_up;
mod claims;
pub mod comparison;
pub mod effect;
pub mod envelope;
pub mod inbox;
pub mod worker;
