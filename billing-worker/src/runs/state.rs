//! The states of a run, in the order in which it passes through them.

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// It takes leases and records events.
    Live,
    /// NATS is unreachable: it records events in its spool.
    Spooling,
    /// It is being ended and its leases are being settled.
    Fencing,
    /// It ended normally.
    Closed,
    /// All its leases are settled.
    Settled,
}

impl RunState {
    pub const UNSETTLED: [Self; 4] = [Self::Live, Self::Spooling, Self::Fencing, Self::Closed];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Spooling => "spooling",
            Self::Fencing => "fencing",
            Self::Closed => "closed",
            Self::Settled => "settled",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        let all = Self::UNSETTLED.into_iter().chain([Self::Settled]);
        all.into_iter().find(|state| state.as_str() == text)
    }
}
