//! Explains the lines of a plan: its price for a period, and prorations of it after a change.

use super::{Explained, Money, MoneyState, clamped, text, usage::LineStatus};

/// Stripe's rounding of a proration is not documented.
const ROUNDING: i64 = 1;

/// The plan's lines of one billing period.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan<'a> {
    pub plan: &'a str,
    pub currency: &'a str,
    /// The invoice of the beginning of the period must have a line with this price, in the smallest unit of the currency. `None`:
    /// it is not known, or costs nothing, or the invoice was not read yet.
    pub required: Option<i64>,
    /// The whole period, in Unix seconds.
    pub period: (i64, i64),
    pub lines: Vec<PlanLine<'a>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanLine<'a> {
    pub invoice: &'a str,
    pub status: LineStatus,
    pub kind: PlanLineKind,
    pub amount: i64,
    pub quantity: i64,
    /// Of its price, for a whole period. `None`: not a price of this service.
    pub price: Option<i64>,
    /// What it is for, in Unix seconds.
    pub from: i64,
    pub to: i64,
    pub is_trial: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanLineKind {
    /// A whole period.
    Period,
    /// The rest of a period after a change.
    Proration,
}

/// What is owed for the plan, and what is wrong.
pub fn explain_plan(plan: &Plan<'_>) -> Explained {
    let mut explained = Explained::default();
    let money = |cents| text(cents, plan.currency);
    let lines = || plan.lines.iter().filter(|line| line.status != LineStatus::Void);
    for line in lines() {
        let expected = line.expected(plan.whole(line));
        let is_near = |expected: i64| match line.kind {
            PlanLineKind::Period => line.amount == expected,
            PlanLineKind::Proration => line.amount.abs_diff(expected) <= ROUNDING.unsigned_abs(),
        };
        let owed = expected.filter(|expected| !is_near(*expected)).unwrap_or(line.amount);
        let Money {
            owed: owes,
            invoiced,
            pending,
            ..
        } = &mut explained.money;
        *owes = owes.saturating_add(owed);
        let place = if line.status == LineStatus::Draft {
            pending
        } else {
            invoiced
        };
        *place = place.saturating_add(line.amount);
        if owed != line.amount {
            let what = match line.kind {
                PlanLineKind::Period => "a line of the plan is",
                PlanLineKind::Proration => "a proration is",
            };
            explained.differences.push(format!(
                "{}: {what} {} on {}, and by its price it is {}",
                plan.plan,
                money(line.amount),
                line.invoice,
                money(owed)
            ));
        }
        if expected.is_none() && line.amount != 0 {
            let (amount, invoice) = (money(line.amount), line.invoice);
            let why = match line.price {
                None => "has no price of this service",
                Some(_) => "is not for the rest of a period",
            };
            explained.notes.push(format!(
                "{}: {amount} on {invoice} {why}, so it is not checked",
                plan.plan
            ));
        }
    }
    if let Some(price) = plan.required
        && lines().all(|line| line.from >= plan.period.1 || line.to <= plan.period.0)
    {
        explained.money.owed = explained.money.owed.saturating_add(price);
        let mut void = plan.lines.iter().filter(|line| line.status == LineStatus::Void);
        match void.find(|line| line.from < plan.period.1 && line.to > plan.period.0) {
            // Somebody gave it up, or the collection is paused.
            Some(line) => {
                explained.money.waived = price;
                explained.notes.push(format!(
                    "{}: {} is void, so {} for the period is not asked for",
                    plan.plan,
                    line.invoice,
                    money(price)
                ));
            }
            None => {
                explained.differences.push(format!(
                    "{}: {} for the period is on no invoice",
                    plan.plan,
                    money(price)
                ));
            }
        }
    }
    if !plan.lines.is_empty() && plan.lines.iter().all(|line| line.is_trial) {
        explained.state = MoneyState::Free;
    }
    explained.closed(plan.currency)
}

impl Plan<'_> {
    /// The period that the line is a part of. A subscription that was canceled now ended earlier than the period that was paid.
    fn whole(&self, line: &PlanLine<'_>) -> (i64, i64) {
        let mut paid = self.lines.iter().filter(|paid| paid.kind == PlanLineKind::Period);
        let contains = |paid: &&PlanLine<'_>| paid.from <= line.from && paid.to == line.to;
        paid.find(contains).map_or(self.period, |paid| (paid.from, paid.to))
    }
}

impl PlanLine<'_> {
    /// What its price says. `None`: not known.
    fn expected(&self, (start, end): (i64, i64)) -> Option<i64> {
        if self.is_trial {
            return Some(0);
        }
        let whole = i128::from(self.price?).checked_mul(i128::from(self.quantity))?;
        match self.kind {
            PlanLineKind::Period => Some(clamped(whole)),
            PlanLineKind::Proration => {
                let (part, all) = (
                    i128::from(self.to.checked_sub(self.from)?),
                    i128::from(end.checked_sub(start)?),
                );
                if all <= 0 || self.to != end || self.from < start {
                    return None;
                }
                let cents = clamped((whole.checked_mul(part)?.checked_mul(2)? + all).div_euclid(2 * all));
                Some(if self.amount < 0 { -cents } else { cents })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(kind: PlanLineKind, amount: i64, price: i64, from: i64) -> PlanLine<'static> {
        PlanLine {
            invoice: "in_1",
            status: LineStatus::Final,
            kind,
            amount,
            quantity: 1,
            price: Some(price),
            from,
            to: 3_000,
            is_trial: false,
        }
    }

    fn plan(required: Option<i64>, lines: Vec<PlanLine<'static>>) -> Explained {
        explain_plan(&Plan {
            plan: "pro",
            currency: "usd",
            required,
            period: (0, 3_000),
            lines,
        })
    }

    #[test]
    fn a_plan_costs_its_price_and_a_change_costs_the_rest_of_the_period() {
        use PlanLineKind::{Period, Proration};
        let right = plan(
            Some(2_900),
            vec![
                line(Period, 2_900, 2_900, 0),
                line(Proration, -1_933, 2_900, 1_000),
                line(Proration, 19_933, 29_900, 1_000),
            ],
        );
        assert_eq!(
            (right.state, right.money.owed, right.money.difference),
            (MoneyState::Ok, 20_900, 0)
        );
        let dear = plan(Some(2_900), vec![line(Period, 3_000, 2_900, 0)]);
        assert_eq!((dear.state, dear.money.difference), (MoneyState::Difference, 100));
        assert_eq!(
            dear.differences,
            ["pro: a line of the plan is 30.00 usd on in_1, and by its price it is 29.00 usd"]
        );
        let unjust = plan(
            Some(2_900),
            vec![line(Period, 2_900, 2_900, 0), line(Proration, -1_900, 2_900, 1_000)],
        );
        assert_eq!(unjust.money.difference, 33);
        // It was canceled before the end of the period that was paid.
        let canceled = explain_plan(&Plan {
            plan: "pro",
            currency: "usd",
            required: Some(2_900),
            period: (0, 1_500),
            lines: vec![line(Period, 2_900, 2_900, 0), line(Proration, -1_900, 2_900, 1_000)],
        });
        assert_eq!((canceled.money.difference, canceled.notes.len()), (33, 0));
        let part = plan(None, vec![line(Proration, -1_900, 2_900, -1)]);
        assert_eq!(
            part.notes,
            ["pro: -19.00 usd on in_1 is not for the rest of a period, so it is not checked"]
        );
        let missing = plan(Some(2_900), vec![]);
        assert_eq!((missing.money.difference, missing.differences.len()), (-2_900, 1));
        let void = PlanLine {
            status: LineStatus::Void,
            ..line(Period, 2_900, 2_900, 0)
        };
        let given_up = plan(Some(2_900), vec![void]);
        assert_eq!(
            (given_up.state, given_up.money.owed, given_up.money.waived),
            (MoneyState::Ok, 2_900, 2_900)
        );
        assert_eq!(
            given_up.notes,
            ["pro: in_1 is void, so 29.00 usd for the period is not asked for"]
        );
        let trial = PlanLine {
            is_trial: true,
            ..line(Period, 0, 2_900, 0)
        };
        assert_eq!(plan(None, vec![trial]).state, MoneyState::Free);
    }
}
