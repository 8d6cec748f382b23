//! The states of a run as command-line arguments. What each permits is in [`protocol::run`].

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
pub use protocol::run::RunState;

/// Parses the name of a state.
pub fn parser() -> impl TypedValueParser<Value = RunState> {
    let values = RunState::ALL.map(|state| PossibleValue::new(state.as_str()).help(meaning(state)));
    PossibleValuesParser::new(values)
        .map(|name| RunState::parse(&name).expect("the parser takes no other names than those of the states"))
}

fn meaning(state: RunState) -> &'static str {
    match state {
        RunState::Live => "It takes leases and records events",
        RunState::Spooling => "NATS is unreachable: it records events in its spool",
        RunState::Fencing => "It is being ended and its leases are being settled",
        RunState::Closed => "It ended normally",
        RunState::Settled => "All its leases are settled",
    }
}
