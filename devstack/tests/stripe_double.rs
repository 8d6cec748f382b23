//! The double of Stripe: its own SDK drives it, its clock rolls over years, and what it does wrong on demand is just that.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

#[path = "stripe_double/clock.rs"]
mod clock;
#[path = "stripe_double/faults.rs"]
mod faults;
#[path = "stripe_double/pages.rs"]
mod pages;
#[path = "stripe_double/rig.rs"]
mod rig;
#[path = "stripe_double/sdk.rs"]
mod sdk;
#[path = "stripe_double/webhooks.rs"]
mod webhooks;
