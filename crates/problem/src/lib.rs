//! Errors as every API of the system shows them: RFC 9457 problem documents, from one catalogue.
//!
//! | what | file |
//! |---|---|
//! | the catalogue: each problem type with its code, status, title and sentences | [`Kind`] in `kind.rs` |
//! | one problem: the response to one request that failed | [`Problem`] in `answer.rs` |
//! | members that only some problem types have | [`Members`] in `members.rs` |
//! | the problem document, its `type` and its `instance` | `body.rs` |
//! | reading JSON, and explaining to a client why it could not be read | [`json`] |
//! | the same for a query string | [`query`] |
//! | `Authorization: Bearer …` | `bearer.rs` |
//! | text of a client in a message | [`fn@shown`] |
//!
//! # How a problem becomes a body
//! A handler returns a [`Problem`]. Converted to a response, it has a status, headers and an empty body, and the problem is in the
//! response's extensions. The server writes the body, because the server knows the id of the request and where the documentation is.
//!
//! The section "Errors" of `docs/api.md` is generated from the catalogue. A test compares the two;
//! `UPDATE_DOCS=1 cargo test -p problem` writes the section.

mod answer;
mod bearer;
mod body;
#[cfg(test)]
mod documentation;
pub mod json;
mod kind;
mod members;
pub mod query;
mod shown;

pub use answer::Problem;
pub use bearer::{BearerError, bearer, malformed_key, unknown_key};
pub use body::{CONTENT_TYPE, PAGE, TYPE_BASE, instance};
pub use kind::{Area, Kind};
pub use members::{Members, Secret};
pub use shown::shown;
