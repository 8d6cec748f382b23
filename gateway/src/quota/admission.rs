//! The decision on one request: an admission, which holds its units, or a refusal.

use schema::{CurrentPlan, LeaseId, SubscriptionId, UsageType};

use super::{reservation::Reservation, view::QuotaView};

/// Units reserved for one request. If it is dropped without [`Admission::spent`], the units are given back.
#[derive(Debug)]
pub struct Admission {
    pub usage_type: UsageType,
    pub cost_units: i64,
    /// [`LeaseId::NIL`] if none is needed (overage, metered).
    pub lease_id: LeaseId,
    pub subscription_id: SubscriptionId,
    /// The segment with which the event is stamped.
    pub segment: i64,
    pub quota: QuotaView,
    reservation: Option<Reservation>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    LimitReached(QuotaView),
    /// The plan must be paid first.
    PaymentRequired {
        plan: String,
        /// The page on which the owed invoice can be paid. `None`: the worker knows none.
        invoice_url: Option<String>,
    },
    /// An operator suspended the account.
    Suspended,
    /// PostgreSQL is unavailable, and the units at hand do not cover the cost.
    Unavailable,
}

impl Admission {
    /// An admission without a lease, for a usage type that is never refused.
    pub fn unleased(usage_type: UsageType, cost_units: i64, current_plan: &CurrentPlan, quota: QuotaView) -> Self {
        Self {
            usage_type,
            cost_units,
            lease_id: LeaseId::NIL,
            subscription_id: current_plan.subscription,
            segment: current_plan.segment,
            quota,
            reservation: None,
        }
    }

    pub(crate) fn leased(
        usage_type: UsageType,
        reservation: Reservation,
        current_plan: &CurrentPlan,
        quota: QuotaView,
    ) -> Self {
        Self {
            usage_type,
            cost_units: reservation.cost(),
            lease_id: reservation.lease_id(),
            subscription_id: current_plan.subscription,
            segment: current_plan.segment,
            quota,
            reservation: Some(reservation),
        }
    }

    /// Marks the units as spent, because the event is stored.
    pub fn spent(self) {
        if let Some(reservation) = self.reservation {
            reservation.spent();
        }
    }
}
