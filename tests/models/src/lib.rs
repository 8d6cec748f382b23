//! Models of the protocols. Each model visits every state of a small world in which every fault can happen at every moment. The
//! tests of the services try some of these interleavings; a model tries all of them, with small numbers.
//!
//! | model | properties | the product's code |
//! |---|---|---|
//! | [`lease_lane_fence`] | units are spent once and returned, an answered event is recorded once | `gateway`, `crates/lane`, `billing-worker/src/runs` |
//! | [`manifest`] | each event is stored once, or dropped once as a duplicate | `ingestor/src/{shards,pipeline,upkeep}` |
//!
//! The code in `crates/protocol` makes the decisions. The services run the same code. Each model has `state`, `action` (one
//! step of one part, with the function of the product that it represents), `step` (the effect of each action), `properties`
//! (the claims that always hold, and the situations that must be possible so that the claims prove something) and `bounds` (the
//! numbers of everything, and the **mutants**: each does one step incorrectly, bypasses the real code there, and must violate a
//! property).
//!
//! ```sh
//! cargo test -p models                           # small bounds
//! cargo run --release -p models                  # the same, and prints the steps to each mutant's failure
//! cargo run --release -p models -- --large
//! ```
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "a state packs small numbers into bytes"
)]

pub mod check;
pub mod lease_lane_fence;
pub mod manifest;
