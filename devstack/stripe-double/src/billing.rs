//! What happens to subscriptions and invoices: charges, payments, changes, cancellations, and the passing of time.

pub(crate) mod advance;
pub(crate) mod cancellation;
pub(crate) mod change;
pub(crate) mod charges;
pub(crate) mod credit;
pub(crate) mod ending;
pub(crate) mod expiry;
pub(crate) mod invoicing;
pub(crate) mod items;
pub(crate) mod pause;
pub(crate) mod payment;
pub(crate) mod payment_behavior;
pub(crate) mod phase_change;
pub(crate) mod phases;
pub(crate) mod start;
pub(crate) mod strict;
pub(crate) mod upcoming;
pub(crate) mod write_off;
