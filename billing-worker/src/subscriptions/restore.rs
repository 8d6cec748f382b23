//! A change of a subscription that stopped in between: completes it, or plans again what it undid first. Decided from Stripe's
//! state alone, so it may be repeated.

use schema::AccountId;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tracing::error;

use super::{billing::Billing, planned::Planned, running::Running};
use crate::error::Error;

/// A change and what it undoes, as a task stores them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restore {
    /// In Stripe.
    pub customer: String,
    /// In Stripe.
    pub subscription: String,
    /// The plan before the change.
    pub plan: Option<String>,
    /// The end of the period that was running when the change began. What was planned takes effect then.
    pub period_end: i64,
    /// What was planned before the change.
    pub before: Planned,
    pub goal: Goal,
}

/// What the change is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// This plan begins now, and nothing is planned.
    Now { plan: String },
    /// This is planned instead.
    Planned(Planned),
    /// The subscription ends now.
    End,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The change is complete.
    Made,
    /// Everything is as it was before the change.
    Undone,
}

/// What is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step<'a> {
    Nothing(Outcome),
    /// The larger plan has begun, and the end that was planned for the smaller one is still planned.
    Keep,
    /// Remove the schedule if there is one, because it plans nothing. Then plan again what was planned before.
    PlanAgain(&'a Planned),
}

impl Restore {
    pub fn from_args(args: &Value) -> Result<Self, serde_json::Error> {
        Self::deserialize(args)
    }

    pub fn args(&self) -> Value {
        json!(self)
    }

    /// Whether anything is lost if the change stops in between. A schedule that plans nothing would be left, too.
    pub fn has_something_to_lose(&self) -> bool {
        self.before != Planned::Nothing || matches!(self.goal, Goal::Planned(Planned::Plan(_)))
    }

    /// Completes the change, or restores what was planned before it. The caller holds the account's lease.
    pub async fn settle(&self, billing: &Billing, account: AccountId) -> Result<Outcome, Error> {
        let now = match Running::of_customer(billing, self.customer.clone()).await {
            Ok(now) => Some(now),
            Err(Error::NotSubscribed) => None,
            Err(failure) => return Err(failure),
        };
        let now = now.filter(|now| now.subscription.id == self.subscription);
        let seen = now.as_ref().map(|now| (now.plan(), now.planned()));
        match (self.step(seen), &now) {
            (Step::Nothing(outcome), _) => Ok(outcome),
            (_, None) => Ok(Outcome::Undone),
            (Step::Keep, Some(now)) => {
                now.keep(billing).await?;
                Ok(Outcome::Made)
            }
            (Step::PlanAgain(before), Some(now)) => {
                now.release_schedule(billing).await?;
                match before {
                    Planned::Nothing => {}
                    Planned::Plan(prices) => now.plan_next(billing, account, prices).await?,
                    Planned::End { at, with_period } => now.plan_end(billing, *at, *with_period).await?,
                }
                if *before != Planned::Nothing && now.period_start() >= self.period_end {
                    error!(
                        account.id = %account,
                        stripe_subscription.id = self.subscription,
                        "a planned change was restored only after its period had ended: the customer has paid for another period, \
                         refund the difference"
                    );
                }
                Ok(Outcome::Undone)
            }
        }
    }

    /// `seen`: the plan that the subscription has now, and what is planned; `None`: it has ended.
    fn step(&self, seen: Option<(Option<&str>, Planned)>) -> Step<'_> {
        let Some((plan, planned)) = seen else {
            // Nothing that was planned for it matters any more.
            return Step::Nothing(match self.goal {
                Goal::End => Outcome::Made,
                _ => Outcome::Undone,
            });
        };
        if plan != self.plan.as_deref() {
            // What was planned does not apply to another plan.
            return match &self.goal {
                Goal::Now { plan: goal } if plan == Some(goal.as_str()) && planned == Planned::Nothing => {
                    Step::Nothing(Outcome::Made)
                }
                Goal::Now { plan: goal } if plan == Some(goal.as_str()) && planned == self.before => Step::Keep,
                Goal::Now { plan: goal } if plan == Some(goal.as_str()) => Step::Nothing(Outcome::Made),
                _ => Step::Nothing(Outcome::Undone),
            };
        }
        match &self.goal {
            Goal::Planned(goal) if *goal == planned => Step::Nothing(Outcome::Made),
            // The change itself leaves nothing planned while it is in progress. Whatever else is planned was there before, or was
            // decided by a person since then, such as a cancellation in the portal.
            _ if planned != Planned::Nothing => Step::Nothing(Outcome::Undone),
            _ => Step::PlanAgain(&self.before),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pro() -> Planned {
        Planned::plan(vec![
            ("price_pro".to_owned(), Some(1)),
            ("price_export".to_owned(), None),
        ])
    }

    fn end() -> Planned {
        Planned::End {
            at: 1_800_000_000,
            with_period: true,
        }
    }

    fn restore(before: Planned, goal: Goal) -> Restore {
        Restore {
            customer: "cus_1".into(),
            subscription: "sub_1".into(),
            plan: Some("team".into()),
            period_end: 1_800_000_000,
            before,
            goal,
        }
    }

    #[test]
    fn what_is_missing_follows_from_the_state_alone() {
        let larger = || Goal::Now {
            plan: "enterprise".into(),
        };
        let (made, undone) = (Step::Nothing(Outcome::Made), Step::Nothing(Outcome::Undone));
        let again = |planned: Planned| Step::PlanAgain(Box::leak(Box::new(planned)));
        for (before, goal, plan, planned, expected) in [
            // Cut off after the schedule was released.
            (pro(), larger(), "team", Planned::Nothing, again(pro())),
            (pro(), Goal::Planned(end()), "team", Planned::Nothing, again(pro())),
            (pro(), Goal::End, "team", Planned::Nothing, again(pro())),
            (end(), Goal::Planned(pro()), "team", Planned::Nothing, again(end())),
            // A schedule that plans nothing is released.
            (
                Planned::Nothing,
                Goal::Planned(pro()),
                "team",
                Planned::Nothing,
                again(Planned::Nothing),
            ),
            // Cut off before the first call, or restored already.
            (pro(), larger(), "team", pro(), undone.clone()),
            (end(), Goal::Planned(pro()), "team", end(), undone.clone()),
            // Cut off after the last call, or its response was lost.
            (end(), Goal::Planned(pro()), "team", pro(), made.clone()),
            (pro(), larger(), "enterprise", Planned::Nothing, made.clone()),
            // The larger plan has begun, and does not end with the smaller one.
            (end(), larger(), "enterprise", end(), Step::Keep),
            // The customer has planned something else since then.
            (pro(), larger(), "team", end(), undone.clone()),
            (pro(), larger(), "enterprise", end(), made.clone()),
            (pro(), Goal::End, "pro", Planned::Nothing, undone.clone()),
        ] {
            let restore = restore(before, goal);
            assert_eq!(
                restore.step(Some((Some(plan), planned.clone()))),
                expected,
                "{restore:?} {plan} {planned:?}"
            );
            assert_eq!(Restore::from_args(&restore.args()).unwrap(), restore);
        }
        assert_eq!(restore(pro(), Goal::End).step(None), made);
        assert_eq!(restore(pro(), larger()).step(None), undone);
    }
}
