//! Everything that this service answers over HTTP.

pub mod admin;
pub mod body;
mod error_response;
pub mod public;
mod query;
pub mod webhook;
