//! Decides whether a request may spend units of its account.
//!
//! # How a request is admitted
//! Every account has one counter for each usage type ([`counters`], `counter`). A counter holds leases: units that PostgreSQL
//! granted to this gateway in advance.
//! 1. **Fast path** ([`admit`]): the units of a lease at hand cover the cost. This takes one atomic: no lock, no await, and no
//!    look-up except the key's. A lease that is half spent is renewed in the background.
//! 2. **Remembered refusal** (`refusals`): PostgreSQL's last answer left fewer units than the cost, and none came back since.
//!    This needs no I/O either.
//! 3. **One request for a lease**: the request waits in the counter's `queue`, so that one request of a counter asks at a time.
//!    The counter owns this lease request (`Counter::request_lease`). The lease client (`leases`) sends the lease requests of
//!    all counters to PostgreSQL in one transaction, and the counter publishes the answer. The requests that wait in the queue
//!    use the same lease, or the same refusal.
//! 4. **Refusal**: a request is refused only after the gateway has recalled the units that other gateways hold ([`recall`]).
//!    The refusal is remembered.
//!
//! Usage that is billed needs no units, and is never refused. If the account has a spend cap, it takes the same steps with a counter
//! of its own: PostgreSQL grants as many units as the cap pays for (`leases::capped`).
//!
//! A request gets an [`Admission`], which holds its units until they are spent, or a [`Refusal`].
//!
//! | to find | open |
//! |---|---|
//! | the steps above | [`admit`] |
//! | the parts of quotas, their start and their end | [`quotas`] |
//! | reading quotas without spending | [`lookup`] |
//! | usage under a spend cap | `capped` |
//! | counters: all, one, its leases | [`counters`], `counter`, `reservation` |
//! | leases and PostgreSQL | `leases` |
//! | signals from a counter to the lease client and to other gateways | `signals` |
//! | a quota as clients see it; metrics | [`view`], `metrics` |

pub mod admission;
pub mod admit;
mod capped;
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
    view::{CapView, QuotaView, Spent},
};
pub(crate) use self::{counters::Counters, leases::requests::LeaseRequests};
