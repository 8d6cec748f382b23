//! Tests of the fault suite: its checker finds violations, its proxy simulates network faults, and the system passes the short
//! form.

mod checker;
mod proxy;
mod suite;
