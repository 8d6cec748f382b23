//! G2 at the ingestor: each event in the stream is stored in ClickHouse once, whichever process dies. When the ingestor needs an
//! operator, it says so and skips nothing.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod behind;
mod duplicates;
mod faults;
mod generations;
mod lights;
mod operators;
mod rig;
mod sharing;
mod stream;
