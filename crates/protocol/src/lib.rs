//! The protocols as pure state machines: no I/O, no async, no clock. The services, the models in `tests/models` and the loom
//! tests in `tests/atomics` link this code, so what is explored is what runs.

pub mod atomics;
pub mod audit;
pub mod claim;
pub mod fence;
pub mod give_back;
pub mod grant;
pub mod lane;
pub mod lease;
pub mod queued;
pub mod reports;
pub mod run;
pub mod spool_state;
pub mod storing;
pub mod trim;
