//! The fake Stripe as a program, and used by Stripe's own SDK.

mod program;
mod sdk;
