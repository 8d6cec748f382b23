//! Publishes events to their lanes, each with the admission that holds its units.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::gauge::ConstGauge,
};

pub use lane::publisher::PublishOutcome;

use crate::quota::Admission;

pub type Publisher = lane::publisher::Publisher<Admission>;
pub type Slot = lane::publisher::Slot<Admission>;
pub type Outgoing = lane::publisher::Outgoing<Admission>;

impl lane::publisher::Units for Admission {
    fn spent(self) {
        Admission::spent(self);
    }
}

/// The lengths of the lanes' queues. They are measured when metrics are read, so that requests need not count them.
#[derive(Debug)]
pub struct Queues(pub Publisher);

impl Collector for Queues {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let (entries, bytes) = self.0.queued();
        for (name, help, value) in [
            (
                "gateway_lane_queued_entries",
                "Entries that have a slot in a lane's queue",
                entries,
            ),
            (
                "gateway_lane_queued_bytes",
                "Bytes that wait in the lanes' queues",
                bytes,
            ),
        ] {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}
