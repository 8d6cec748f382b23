//! The fake Stripe as a program, and as Stripe's own SDK sees it.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod program;
mod sdk;
