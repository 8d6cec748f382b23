//! What Stripe's documentation leaves open, and a rehearsal sees. `docs/billing.md` has the same list, and what it never tries.

pub(super) const TIMESTAMPS: &str = "Do meter events accept the time of a test clock?";
pub(super) const NEGATIVE: &str = "May a meter event be negative, if the sum is not?";
pub(super) const COUNTED: &str = "How long does Stripe take to count a meter event?";
pub(super) const DECLINED: &str = "What is left of a declined upgrade whose invoice is void?";
pub(super) const UPGRADE: &str = "Does the invoice of an upgrade leave metered items alone?";
pub(super) const ADDED: &str = "Does a metered item that is added within a period bill only its own meter?";
pub(super) const DRAFT: &str = "How long is the invoice of a period a draft?";
pub(super) const ROUNDING: &str = "Is each line of usage rounded once, half up?";
pub(super) const TIERS: &str = "Which lines and quantities has usage with included units?";
pub(super) const CREDIT: &str =
    "Does a credit note of a paid line of usage go to the customer's balance, and pay the next invoice?";
pub(super) const PHASE: &str = "Does a plan that begins with the next period make a line of proration?";
pub(super) const CANCEL: &str = "Has the last invoice of a cancellation at once the usage so far?";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_docs_list_every_question() {
        let docs = include_str!("../../../docs/billing.md");
        for question in [
            TIMESTAMPS, NEGATIVE, COUNTED, DECLINED, UPGRADE, ADDED, DRAFT, ROUNDING, TIERS, CREDIT, PHASE, CANCEL,
        ] {
            assert!(docs.contains(question), "{question}");
        }
    }
}
