//! Whether a request may spend units of its account.
//!
//! | to find | open |
//! |---|---|
//! | the decision on one request | [`quotas`] |
//! | its result | [`admission`] |
//! | the units at hand of one account and usage type | `counter`, `reservation` |
//! | leases and PostgreSQL | `leases` |
//! | units that other gateways hold | [`recall`] |
//! | requests that wait for units; refusals that are remembered | `turn`, `refusals` |
//! | what may be shown of a counter | `view` |
//! | what is counted | `decision_metrics` |

pub mod admission;
pub(crate) mod counter;
pub(crate) mod decision_metrics;
pub(crate) mod leases;
pub mod quotas;
pub mod recall;
mod refusals;
mod reservation;
mod turn;
mod view;
