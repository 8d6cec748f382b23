//! The fake Stripe as a program, and used by Stripe's own SDK.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod program;
mod sdk;
