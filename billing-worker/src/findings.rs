//! States in Stripe that an operator must solve. Each is found again whenever the subscriptions of an account are stored, and is
//! open until it is gone. Those of customers without an account are found by Stripe's events, and once a day.
//!
//! | what | file |
//! |---|---|
//! | a finding, and what to do about it | [`finding`] |
//! | the rows: opened, resolved, listed | [`repository`] |
//! | how many are open, as metrics | [`metrics`] |

pub mod finding;
pub mod metrics;
pub mod repository;
