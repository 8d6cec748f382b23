//! The protocols as pure state machines: no I/O, no async, no clock. The services, the models in `tests/models` and the loom
//! tests in `tests/atomics` link this code, so what is explored is what runs.
