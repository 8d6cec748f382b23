//! The HTTP APIs of this service.

pub mod admin;
pub mod body;
mod error_response;
pub mod public;
mod query;
mod stripe_problem;
pub mod webhook;
