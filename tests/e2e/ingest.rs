//! G2 at the ingestor: what is in the stream is in ClickHouse, each event once, whatever dies in between; and where it cannot
//! go on without a person, it says so and passes nothing over.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod duplicates;
mod faults;
mod operators;
mod rig;
mod sharing;
