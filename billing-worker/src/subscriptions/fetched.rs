//! A subscription as it was read from Stripe, with its related objects.

use crate::stripe::object::{Invoice, Schedule, Subscription};

#[derive(Clone, Debug)]
pub struct Fetched {
    pub subscription: Subscription,
    /// Its schedule, if it has one. Its prices are expanded.
    pub schedule: Option<Schedule>,
    /// Its unpaid invoices, if a payment failed.
    pub unpaid: Vec<Invoice>,
    /// Its latest paid invoices, if its invoices are not collected.
    pub paid: Vec<Invoice>,
}
