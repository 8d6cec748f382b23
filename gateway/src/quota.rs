//! Whether a request may spend units of its account.
//!
//! # How a request is admitted
//! Every account has one counter for each usage type ([`counters`], `counter`). A counter holds leases: units that PostgreSQL
//! granted to this gateway in advance.
//! 1. **Fast path** ([`admit`]): the units of a lease at hand cover the cost. One atomic; no lock, no await, no look-up beside
//!    the key's. A lease that is half spent is renewed in the background.
//! 2. **Remembered refusal** (`refusals`): fewer units remained when PostgreSQL was last asked, and none came back since. No
//!    I/O either.
//! 3. **One request for a lease**: the request waits in the counter's `queue`, so that one of them at a time asks. The counter
//!    owns the question (`Counter::request_lease`). The lease client (`leases`) takes it, with those of all other counters, to
//!    PostgreSQL in one transaction, and the counter publishes the answer. The requests behind use the same lease, or the
//!    same refusal.
//! 4. **Refusal**, only after the units that other gateways hold were asked for ([`recall`]). Then it is remembered.
//!
//! A request gets an [`Admission`], which holds its units until they are spent, or a [`Refusal`].
//!
//! | to find | open |
//! |---|---|
//! | the steps above | [`admit`] |
//! | parts, start, end | [`quotas`] |
//! | looking without spending | [`lookup`] |
//! | counters: all, one, its leases | [`counters`], `counter`, `reservation` |
//! | leases and PostgreSQL | `leases` |
//! | what a counter tells the lease client and other gateways | `signals` |
//! | what is shown of a counter; what is counted | [`view`], `metrics` |

pub mod admission;
pub mod admit;
#[cfg(test)]
mod cost_tests;
mod counter;
pub mod counters;
mod leases;
pub mod lookup;
mod metrics;
mod queue;
pub mod quotas;
pub mod recall;
mod refusals;
mod reservation;
mod signals;
pub mod view;

pub use self::{
    admission::{Admission, Refusal},
    counters::AccountCounters,
    quotas::{QuotaSettings, Quotas},
    view::QuotaView,
};
pub(crate) use self::{counters::Counters, leases::requests::LeaseRequests};
