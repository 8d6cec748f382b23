//! The protocols as models: small worlds whose every state is visited, with everything that can go wrong going wrong at every
//! moment. What the tests of the services try by chance is tried here whole, at small numbers.
//!
//! | model | the claims | what it is drawn after |
//! |---|---|---|
//! | [`lease_lane_fence`] | no unit is spent twice, what was answered is recorded once, units come back | `gateway/src/{counter,lease,leases,quotas}`, `crates/lane/src` (its [`protocol::lane`] itself), `billing-worker/src/runs` |
//! | [`manifest`] | each event is stored once, or dropped once as a duplicate | `ingestor/src/{shards,pipeline,upkeep}` |
//!
//! Each has `state` (what there is), `action` (one step of one part, with the function of the code that it stands for),
//! `step` (what it changes), `properties` (what always holds, and what has to be possible so that this says something) and
//! `bounds` (how much of everything, and the **mutants**: one step done wrong, each of which has to break a claim).
//!
//! ```sh
//! cargo test -p models                           # small bounds
//! cargo run --release -p models                  # the same, with the way to each mutant's failure in words
//! cargo run --release -p models -- --large
//! ```

pub mod check;
pub mod lease_lane_fence;
pub mod manifest;
