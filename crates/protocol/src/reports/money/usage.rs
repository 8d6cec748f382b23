//! Explains the usage of one type in one segment: counted, reported, on the lines of the invoice, late, and credited.

use super::{Explained, Money, MoneyState, Price, sum, text};

/// One usage type of one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage<'a> {
    pub usage_type: &'a str,
    pub currency: &'a str,
    pub priced: Priced,
    pub stage: Stage,
    /// In ClickHouse, corrections included.
    pub counted: i64,
    pub carried_in: i64,
    pub carried_out: i64,
    /// Reported to Stripe, by the ledger.
    pub reported: i64,
    /// Units that left the segment for a charge, a credit or a next period that has not come. In the order of their ids.
    pub late: Vec<Late>,
    /// Lines of this price and segment.
    pub lines: Vec<Line<'a>>,
    /// Sum of the invoice items for late usage that are on a final invoice.
    pub charged: i64,
    /// The same on void invoices.
    pub charged_void: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priced {
    /// The plan does not bill this usage type by the unit.
    Not,
    /// A price that this service did not make.
    Unknown,
    /// Nobody pays for it.
    Free {
        why: &'static str,
    },
    At(Price),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The invoice is not final.
    Open,
    /// The invoice is final, and was not read yet.
    Unread,
    Final,
}

/// A line of an invoice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    pub invoice: &'a str,
    pub quantity: i64,
    pub amount: i64,
    pub status: LineStatus,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineStatus {
    Draft,
    Final,
    Void,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Late {
    /// Negative: a correction.
    pub units: i64,
    /// Units of the line that were priced before. `None`: it is not priced yet, or an earlier version did it.
    pub before: Option<i64>,
    pub outcome: LateOutcome,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LateOutcome {
    Waiting,
    /// An invoice item. `is_due`: it should be on a final invoice by now.
    Charged {
        cents: i64,
        is_due: bool,
    },
    /// Credit notes. `noted`: what those that are not void credit; `None`: not known. `why`: why it is less than the units cost.
    Credited {
        cents: i64,
        noted: Option<i64>,
        why: Option<String>,
    },
    Nothing {
        why: String,
    },
}

/// What the usage of a segment costs: what is reported for it, and what came too late for that. `GET /billing/usage` shows it.
pub fn owed(price: &Price, counted: i64, carried: i64, late: i64) -> i64 {
    price.cents(counted.saturating_add(carried).saturating_add(late))
}

/// What is owed for the usage, where it is, and what is wrong.
pub fn explain(usage: &Usage<'_>) -> Explained {
    let explained = match usage.priced {
        Priced::Not => Explained::default(),
        Priced::Free { why } => free(usage, why),
        Priced::Unknown => unknown(usage),
        Priced::At(price) => match usage.stage {
            Stage::Open | Stage::Unread => not_final(usage, &price),
            Stage::Final => invoiced(usage, &price),
        },
    };
    explained.closed(usage.currency)
}

/// A trial's usage is on the invoice with an amount of 0, or not at all.
fn free(usage: &Usage<'_>, why: &'static str) -> Explained {
    let (invoiced, money) = (usage.billed(LineStatus::Final).1 + usage.charged, |cents| {
        text(cents, usage.currency)
    });
    let differences = match invoiced {
        0 => vec![],
        cents => vec![format!(
            "{}: the invoices ask for {}, and nobody pays for it: {why}",
            usage.usage_type,
            money(cents)
        )],
    };
    Explained {
        money: Money {
            invoiced,
            ..Money::default()
        },
        state: MoneyState::Free,
        differences,
        notes: vec![],
    }
}

fn unknown(usage: &Usage<'_>) -> Explained {
    let (_, billed) = usage.billed(LineStatus::Final);
    let credited = sum(usage.late.iter().map(|late| late.outcome.credited()));
    let is_waiting = usage.late.iter().any(|late| late.outcome == LateOutcome::Waiting);
    let invoiced = billed.saturating_add(usage.charged);
    let note = format!(
        "{}: this service does not know the price, so the amount is not checked",
        usage.usage_type
    );
    Explained {
        money: Money {
            owed: invoiced.saturating_sub(credited),
            invoiced,
            credited,
            ..Money::default()
        },
        state: match is_waiting {
            true => MoneyState::Open,
            false => MoneyState::Ok,
        },
        differences: vec![],
        notes: if usage.lines.is_empty() { vec![] } else { vec![note] },
    }
}

fn not_final(usage: &Usage<'_>, price: &Price) -> Explained {
    let owed = usage.owed(price);
    let notes = match usage.stage {
        Stage::Unread if owed != 0 => vec![format!("{}: the final invoice was not read yet", usage.usage_type)],
        _ => vec![],
    };
    Explained {
        money: Money {
            owed,
            pending: owed,
            ..Money::default()
        },
        state: MoneyState::Pending,
        differences: vec![],
        notes,
    }
}

fn invoiced(usage: &Usage<'_>, price: &Price) -> Explained {
    let mut explained = Explained {
        money: Money {
            owed: usage.owed(price),
            ..Money::default()
        },
        ..Explained::default()
    };
    usage.check_lines(price, &mut explained);
    usage.check_late(price, &mut explained);
    explained
}

impl Usage<'_> {
    fn owed(&self, price: &Price) -> i64 {
        let late = sum(self.late.iter().map(|late| late.units));
        owed(
            price,
            self.counted,
            self.carried_in.saturating_sub(self.carried_out),
            late,
        )
    }

    /// Units and amount of the lines.
    fn billed(&self, status: LineStatus) -> (i64, i64) {
        let lines = || self.lines.iter().filter(move |line| line.status == status);
        (
            sum(lines().map(|line| line.quantity)),
            sum(lines().map(|line| line.amount)),
        )
    }

    fn invoice(&self) -> &str {
        let of = |line: &&Line<'_>| line.status != LineStatus::Draft;
        self.lines.iter().find(of).map_or("no invoice", |line| line.invoice)
    }

    /// The lines bill the units that were reported, at the price.
    fn check_lines(&self, price: &Price, explained: &mut Explained) {
        let (usage_type, invoice, money) = (self.usage_type, self.invoice(), |cents| text(cents, self.currency));
        let reported = self.reported.max(0);
        let expected = price.cents(reported);
        let ((mut quantity, billed), (void_units, void)) =
            (self.billed(LineStatus::Final), self.billed(LineStatus::Void));
        explained.money.invoiced = billed;
        // A void invoice that another one replaces is no reason.
        if quantity != reported && void_units != 0 {
            quantity = quantity.saturating_add(void_units);
            explained.money.waived = void;
            explained.notes.push(format!(
                "{usage_type}: {invoice} is void, so {} is not asked for",
                money(void)
            ));
        }
        let amount = billed.saturating_add(explained.money.waived);
        if quantity != reported {
            let bills = match quantity {
                0 => "no invoice bills them".to_owned(),
                _ => format!("{invoice} bills {quantity}"),
            };
            explained.differences.push(format!(
                "{usage_type}: {reported} units were reported, and {bills}: {} instead of {}",
                money(amount),
                money(expected)
            ));
        } else if amount != expected {
            explained.differences.push(format!(
                "{usage_type}: {quantity} units cost {} ({} included, then {} millionths each), and {invoice} bills {}",
                money(expected),
                price.included,
                price.unit_price_micros,
                money(amount)
            ));
        }
        // What is counted and neither reported nor carried yet.
        let (counted, carried) = (self.counted, self.carried_in.saturating_sub(self.carried_out));
        let missing = counted.saturating_add(carried).saturating_sub(self.reported);
        if missing != 0 {
            let before = self
                .reported
                .saturating_add(sum(self.late.iter().map(|late| late.units)));
            explained.money.pending = price.difference(before, missing);
            explained.notes.push(format!(
                "{usage_type}: {missing} units are counted, and not reported or carried yet"
            ));
        }
    }

    /// Late units are charged, and corrections credited, at what they cost.
    fn check_late(&self, price: &Price, explained: &mut Explained) {
        let (usage_type, money) = (self.usage_type, |cents| text(cents, self.currency));
        let Explained {
            money: sums,
            differences,
            notes,
            ..
        } = explained;
        let is_priced = |late: &&Late| late.outcome != LateOutcome::Waiting;
        let priced = sum(self.late.iter().filter(is_priced).map(|late| late.units));
        let (mut by_id, mut waiting) = (self.reported, self.reported.saturating_add(priced));
        let (mut items, mut is_due, mut open) = (0i64, true, 0i64);
        for late in &self.late {
            let mut stored = late.before.unwrap_or(0);
            let at = match &late.outcome {
                LateOutcome::Waiting => &mut waiting,
                _ if late.before.is_some() => &mut stored,
                _ => &mut by_id,
            };
            let (units, cost) = (late.units, price.difference(*at, late.units));
            *at = at.saturating_add(units);
            match &late.outcome {
                LateOutcome::Waiting => {
                    open = open.saturating_add(cost);
                    if cost != 0 {
                        notes.push(format!(
                            "{usage_type}: {units} late units are on no invoice yet ({})",
                            money(cost)
                        ));
                    }
                }
                LateOutcome::Charged { cents, is_due: due } => {
                    items = items.saturating_add(*cents);
                    is_due &= due;
                    if *cents != cost {
                        differences.push(format!(
                            "{usage_type}: {units} late units cost {}, and {} was charged for them",
                            money(cost),
                            money(*cents)
                        ));
                    }
                }
                LateOutcome::Credited { cents, noted, why } => {
                    let given = noted.unwrap_or(*cents);
                    sums.credited = sums.credited.saturating_add(given);
                    if given != *cents {
                        differences.push(format!(
                            "{usage_type}: {} was credited for the correction of {} units, and the credit notes return {}",
                            money(*cents),
                            units.saturating_neg(),
                            money(given)
                        ));
                    }
                    short(
                        usage_type,
                        units,
                        cost.saturating_neg(),
                        *cents,
                        why.as_deref(),
                        &money,
                        sums,
                        (&mut *differences, &mut *notes),
                    );
                }
                LateOutcome::Nothing { why } if units < 0 => {
                    short(
                        usage_type,
                        units,
                        cost.saturating_neg(),
                        0,
                        Some(why),
                        &money,
                        sums,
                        (&mut *differences, &mut *notes),
                    );
                }
                LateOutcome::Nothing { why } if cost != 0 => differences.push(format!(
                    "{usage_type}: {units} late units cost {}, and are not charged: {why}",
                    money(cost)
                )),
                LateOutcome::Nothing { .. } => {}
            }
        }
        sums.invoiced = sums.invoiced.saturating_add(self.charged);
        let mut missing = items.saturating_sub(self.charged);
        // A void invoice that another one replaces is no reason.
        let void = missing.min(self.charged_void).max(0);
        if void > 0 {
            missing -= void;
            sums.waived = sums.waived.saturating_add(void);
            notes.push(format!(
                "{usage_type}: an invoice for late units is void, so {} is not asked for",
                money(void)
            ));
        }
        if missing > 0 && !is_due {
            sums.pending = sums.pending.saturating_add(missing);
            notes.push(format!(
                "{usage_type}: {} for late units is on the customer's next invoice",
                money(missing)
            ));
        } else if missing < 0 && open >= missing.saturating_neg() {
            // An item that Stripe has made, and whose response was lost.
            open = open.saturating_add(missing);
        } else if missing != 0 {
            differences.push(format!(
                "{usage_type}: {} was charged for late units, and the invoices have {} of it",
                money(items),
                money(self.charged)
            ));
        }
        sums.open = open;
    }
}

/// A credit that is smaller than the price of its units needs a reason.
#[expect(clippy::too_many_arguments, reason = "one sentence of two places")]
fn short(
    usage_type: &str,
    units: i64,
    cost: i64,
    given: i64,
    why: Option<&str>,
    money: &impl Fn(i64) -> String,
    sums: &mut Money,
    (differences, notes): (&mut Vec<String>, &mut Vec<String>),
) {
    let (units, missing) = (units.saturating_neg(), cost.saturating_sub(given));
    match why {
        _ if missing == 0 => {}
        Some(why) if missing > 0 => {
            sums.waived = sums.waived.saturating_sub(missing);
            notes.push(format!(
                "{usage_type}: the correction of {units} units is worth {}, and {} was returned: {why}",
                money(cost),
                money(given)
            ));
        }
        _ => differences.push(format!(
            "{usage_type}: the correction of {units} units is worth {}, and {} was returned",
            money(cost),
            money(given)
        )),
    }
}

impl LateOutcome {
    fn credited(&self) -> i64 {
        match self {
            Self::Credited { cents, noted, .. } => noted.unwrap_or(*cents),
            _ => 0,
        }
    }
}
