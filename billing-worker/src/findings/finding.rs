//! A state in Stripe that an operator must solve.

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FindingKind {
    CreditNote,
    Dispute,
    ForeignPrice,
    Interval,
    PausedCollection,
    Quantity,
    Refund,
    TwoPlans,
    TwoSubscriptions,
    UnbilledUsage,
    UnknownSubscription,
    UnlinkedPayer,
    UnreadableSubscription,
}

/// Each kind has at most one finding of each subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub kind: FindingKind,
    /// Id of the object in Stripe that has it.
    pub subject: String,
    /// What is wrong, as a sentence.
    pub text: String,
}

impl FindingKind {
    pub const ALL: [Self; 13] = [
        Self::CreditNote,
        Self::Dispute,
        Self::ForeignPrice,
        Self::Interval,
        Self::PausedCollection,
        Self::Quantity,
        Self::Refund,
        Self::TwoPlans,
        Self::TwoSubscriptions,
        Self::UnbilledUsage,
        Self::UnknownSubscription,
        Self::UnlinkedPayer,
        Self::UnreadableSubscription,
    ];

    /// In rows and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CreditNote => "credit_note",
            Self::Dispute => "dispute",
            Self::ForeignPrice => "foreign_price",
            Self::Interval => "interval",
            Self::PausedCollection => "paused_collection",
            Self::Quantity => "quantity",
            Self::Refund => "refund",
            Self::TwoPlans => "two_plans",
            Self::TwoSubscriptions => "two_subscriptions",
            Self::UnbilledUsage => "unbilled_usage",
            Self::UnknownSubscription => "unknown_subscription",
            Self::UnlinkedPayer => "unlinked_payer",
            Self::UnreadableSubscription => "unreadable_subscription",
        }
    }

    /// What the operator can do; `<subject>` stands for the finding's subject.
    fn remedy(self) -> &'static str {
        match self {
            Self::CreditNote => {
                "a person made it in Stripe: check that it is right; its usage stays billed; this finding ends after 7 days"
            }
            Self::Dispute => {
                "answer it in Stripe in time, or accept it; `billing-worker accounts suspend` refuses the account's calls; \
                 LOST_DISPUTE=suspend does that whenever a bank decides for the customer"
            }
            Self::ForeignPrice => {
                "if the price is intended, add the metadata trendit_plan=<plan> to it in Stripe, then run `billing-worker stripe \
                 compare`; otherwise give the subscription the plan's own price in Stripe"
            }
            Self::Interval => {
                "give the subscription the plan's own price per month or per year in Stripe; `billing-worker stripe sync` makes the \
                 price per year if the catalogue has one"
            }
            Self::PausedCollection => {
                "nothing is paid: resume the collection in Stripe, or cancel the subscription; unless PAUSED_COLLECTION is `allow`, the \
                 account's calls are refused after the period that was paid"
            }
            Self::Quantity => {
                "at any quantity the account has the limits of one plan: set the quantity to 1 in Stripe, and refund what was paid \
                 too much; the next upgrade also sets it to 1"
            }
            Self::Refund => {
                "a person made it in Stripe: check that it is right; the account keeps its plan, so cancel the subscription if it \
                 shall end; this finding ends after 7 days"
            }
            Self::TwoPlans => {
                "the first plan in the subscription counts: remove the prices of the others in Stripe, and refund what they cost"
            }
            Self::TwoSubscriptions => "the newest one counts: cancel the others in Stripe, and refund what they cost",
            Self::UnbilledUsage => "run `billing-worker stripe sync`",
            Self::UnknownSubscription => {
                "if it is for another product of yours, add the metadata trendit=ignore to the subscription or to its price in \
                 Stripe, then run `billing-worker stripe compare`; if it is for a plan, move it to a price of the plan's \
                 product; otherwise cancel it"
            }
            Self::UnlinkedPayer => {
                "run `billing-worker accounts link-stripe <account> <subject>`; if the customer has no account yet, create it first; \
                 if the subscription is for another product of yours, or you have canceled and refunded it, add the metadata \
                 trendit=ignore to it in Stripe; without that, it stays until the paid time is over"
            }
            Self::UnreadableSubscription => {
                "add the plan to the catalogue again, or change or cancel the subscription in Stripe"
            }
        }
    }
}

impl Finding {
    /// What the operator can do.
    pub fn remedy(&self) -> String {
        self.kind.remedy().replace("<subject>", &self.subject)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_name_of_its_own_and_a_remedy() {
        let mut names: Vec<_> = FindingKind::ALL.map(FindingKind::as_str).to_vec();
        assert!(names.is_sorted());
        names.dedup();
        assert_eq!(names.len(), FindingKind::ALL.len());
        assert!(FindingKind::ALL.iter().all(|kind| !kind.remedy().is_empty()));
    }
}
