//! The double of Stripe: its own SDK drives it, its clock rolls over years, and what it does wrong on demand is just that.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod changes;
mod client;
mod clock;
mod faults;
mod pages;
mod rig;
mod timeline;
mod webhooks;
