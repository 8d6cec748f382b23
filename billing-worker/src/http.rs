//! Everything that this service answers over HTTP.

pub mod admin;
pub mod body;
pub mod public;
pub mod webhook;
