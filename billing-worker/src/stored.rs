//! Whether ClickHouse has everything that was published.
//!
//! | what | file |
//! |---|---|
//! | everything that gateways have acknowledged is in ClickHouse: wait for it | [`wait`](fn@wait) |
//! | lanes: end them, and check whether all their events are stored | [`lanes`] |
//! | metrics | [`metrics`] |

pub mod lanes;
pub mod metrics;
mod watermark;

pub use self::{metrics::WatermarkMetrics, watermark::wait};
