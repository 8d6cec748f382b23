//! Tests of the fake Stripe over its API and its pages, with its clock and its faults.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod changes;
mod client;
mod clock;
mod credits;
mod currencies;
mod faults;
mod pages;
mod payments;
mod refusals;
mod reversals;
mod rig;
mod strict;
mod terms;
mod test_clocks;
mod timeline;
mod webhooks;
