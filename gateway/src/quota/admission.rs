//! The decision on one request: an admission, which holds its units, or a refusal.

use std::sync::Arc;

use schema::{CurrentPlan, LeaseId, SubscriptionId, UsageType};

use super::{
    reservation::Reservation,
    view::{CapView, QuotaView},
};

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
    paid_by: PaidBy,
}

/// What is held until the event is stored, or certainly is not.
#[derive(Debug)]
enum PaidBy {
    Lease(Reservation),
    /// Nothing. The plan shows that a request that was admitted under it is not recorded yet: see `Account::knows_cap`.
    Nobody {
        _admitted_under: Arc<CurrentPlan>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    LimitReached(QuotaView),
    /// The units would cost more than the account wants to pay.
    SpendCapReached(CapView),
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
    pub fn unleased(usage_type: UsageType, cost_units: i64, current_plan: &Arc<CurrentPlan>, quota: QuotaView) -> Self {
        Self {
            usage_type,
            cost_units,
            lease_id: LeaseId::NIL,
            subscription_id: current_plan.subscription,
            segment: current_plan.segment,
            quota,
            paid_by: PaidBy::Nobody {
                _admitted_under: Arc::clone(current_plan),
            },
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
            paid_by: PaidBy::Lease(reservation),
        }
    }

    /// Marks the units as spent, because the event is stored.
    pub fn spent(self) {
        if let PaidBy::Lease(reservation) = self.paid_by {
            reservation.spent();
        }
    }
}
