//! Gathers what is known of the money of segments, and lets it be explained.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::{Context, Result};
use protocol::reports::{
    identifier::LineId,
    money::{
        Explained, Money, MoneyState,
        balance::{BalanceChange, CreditNote},
        explain, explain_balance, explain_plan,
        plan::{Plan, PlanLine, PlanLineKind},
        text,
        usage::{Late, LateOutcome, Line, LineStatus, Priced, Stage, Usage},
    },
    period::{BilledBy, BillingPeriod},
};
use schema::{period::instant, prices::ByCurrency};

use super::{
    copies, fresh,
    invoices::{Found, FoundInvoice, FoundLine, Source},
    late::{self, StoredLate},
    period_money::{Part, PeriodMoney},
    segments::{self, Segment, SegmentPrice, Segments},
};
use crate::reports::{Reporter, accepted};

/// The copy of an invoice may be so much later than the invoice.
const COPIED_WITHIN: i64 = 3_600;
/// Stripe keeps an invoice a draft for at most 72 hours; a day more.
const FINAL_WITHIN: i64 = 4 * 24 * 3_600;
/// Stripe makes the invoice at the end of the period, or a little later.
const MADE_WITHIN: i64 = 24 * 3_600;
/// The invoice of a subscription that is ended now is made a moment before its end.
const MADE_BEFORE: i64 = 60;

/// A segment to compare.
pub struct Asked<'a> {
    pub period: &'a BillingPeriod,
    /// Its last second is before this.
    pub ends_at: i64,
}

/// What is counted and reported of a line.
#[derive(Clone, Copy, Debug, Default)]
pub struct Units {
    pub counted: i64,
    pub carried_in: i64,
    pub carried_out: i64,
    pub reported: i64,
}

struct Known {
    segments: Segments,
    prices: Vec<SegmentPrice>,
    plan_prices: HashMap<String, ByCurrency>,
    late: HashMap<LineId, Vec<StoredLate>>,
    found: Found,
    source: Source,
    /// How long an invoice item may be on no invoice, if the customer has no subscription.
    overdue_after: i64,
    now: i64,
}

/// The money of these segments. No transaction is open while Stripe is asked.
pub async fn compare(
    reporter: &Reporter,
    asked: &[Asked<'_>],
    units: &BTreeMap<LineId, Units>,
    source: Source,
    now: i64,
) -> Result<Vec<PeriodMoney>> {
    let Some(since) = asked.iter().map(|asked| asked.period.start).min() else {
        return Ok(Vec::new());
    };
    let periods: Vec<_> = asked
        .iter()
        .map(|asked| (asked.period.account, asked.period.start))
        .collect();
    let customers: BTreeSet<_> = asked
        .iter()
        .map(|asked| (asked.period.account, asked.period.customer.clone()))
        .collect();
    let mut accounts: Vec<_> = periods.iter().map(|(account, _)| *account).collect();
    accounts.sort_unstable();
    accounts.dedup();
    let db = &reporter.db;
    let segments = segments::read(db, &periods).await.context("reading segments")?;
    let since = segments
        .values()
        .map(|segment| segment.quota_start)
        .fold(since, i64::min);
    let prices = segments::prices(db, &accounts, since).await.context("reading prices")?;
    let late = late::read(db, &periods).await.context("reading late usage")?;
    let notes: Vec<_> = late.values().flatten().flat_map(|late| late.notes.clone()).collect();
    let found = match source {
        Source::Copies => copies::read(reporter, &accounts, since, &notes)
            .await
            .context("reading invoices")?,
        Source::Stripe => fresh::read(reporter, &customers, since)
            .await
            .context("reading invoices in Stripe")?,
    };
    let lines = found.invoices.values().flatten().flat_map(|invoice| &invoice.lines);
    let plan_prices: BTreeSet<_> = lines.filter_map(|line| line.price.clone()).collect();
    let plan_prices: Vec<_> = plan_prices.into_iter().collect();
    let known = Known {
        plan_prices: segments::plan_prices(db, &plan_prices)
            .await
            .context("reading prices")?,
        segments,
        prices,
        late,
        found,
        source,
        overdue_after: reporter.settings.open_money_after_s(),
        now,
    };
    let mut accepted = accepted::read(db, &periods)
        .await
        .context("reading accepted differences")?;
    let mut money: Vec<_> = asked.iter().filter_map(|asked| known.money(asked, units)).collect();
    for money in &mut money {
        let accepted = accepted.remove(&(money.account_id, money.period_start.unix_timestamp()));
        money.accepted = accepted.filter(|accepted| accepted.difference_cents == money.amounts.difference_cents);
    }
    Ok(money)
}

impl Known {
    fn money(&self, asked: &Asked<'_>, units: &BTreeMap<LineId, Units>) -> Option<PeriodMoney> {
        let (period, ends_at) = (asked.period, asked.ends_at);
        let segment = self.segments.get(&(period.account, period.start))?;
        let prices = || self.prices.iter().filter(|price| price.account == period.account);
        let ours: Vec<_> = prices().filter(|price| price.start == period.start).collect();
        let currency = segment.currency.as_str();
        let lines = self.found.lines(period.account);
        let is_late = |line: &FoundLine| line.kind == "late_usage" && line.from == period.start;
        let mut usage_types: BTreeSet<&str> = ours.iter().map(|price| price.usage_type.as_str()).collect();
        let first = LineId {
            account: period.account,
            start: period.start,
            usage_type: String::new(),
        };
        let of_segment = units
            .range(first..)
            .take_while(|(id, _)| (id.account, id.start) == (period.account, period.start));
        usage_types.extend(of_segment.map(|(id, _)| id.usage_type.as_str()));
        usage_types.extend(
            lines
                .clone()
                .filter(|(_, line)| is_late(line))
                .filter_map(|(_, line)| line.usage_type.as_deref()),
        );

        let (mut parts, mut whole) = (Vec::new(), None::<Explained>);
        let mut add = |usage_type: Option<&str>, explained: Explained, is_billed: bool| {
            let is_empty = explained.money == Money::default();
            if !is_billed && is_empty && explained.differences.is_empty() && explained.notes.is_empty() {
                return;
            }
            parts.push(Part::new(usage_type, &explained));
            match &mut whole {
                Some(whole) => whole.add(explained),
                None => whole = Some(explained),
            }
        };
        // Once for the time that was paid for. Of a slice that no event told of, it may not be known.
        let is_known = segment.paid.is_some() || period.billed_by == BilledBy::Invoice;
        if is_known && segment.paid_for(period.end).0 == period.start {
            add(None, explain_plan(&self.plan(period, segment, currency)), false);
        }
        for usage_type in usage_types {
            let id = LineId {
                usage_type: usage_type.to_owned(),
                ..LineId {
                    account: period.account,
                    start: period.start,
                    usage_type: String::new(),
                }
            };
            let price = ours.iter().find(|price| price.usage_type == usage_type).copied();
            let counted = units.get(&id).copied().unwrap_or_default();
            add(
                Some(usage_type),
                explain(&self.usage(period, segment, (&id, price, currency), counted)),
                price.is_some(),
            );
        }
        add(None, self.balance(asked, currency), false);
        add(None, self.strange(asked, currency), false);
        let whole = whole.unwrap_or_else(|| Explained {
            state: if segment.is_trial {
                MoneyState::Free
            } else {
                MoneyState::Ok
            },
            ..Explained::default()
        });
        Some(PeriodMoney {
            account_id: period.account,
            period_start: instant(period.start),
            period_end: instant(ends_at),
            currency: currency.to_owned(),
            state: whole.state,
            amounts: whole.money.into(),
            parts,
            differences: whole.differences,
            notes: whole.notes,
            accepted: None,
        })
    }

    fn usage<'a>(
        &'a self,
        period: &BillingPeriod,
        segment: &Segment,
        (id, price, currency): (&'a LineId, Option<&'a SegmentPrice>, &'a str),
        units: Units,
    ) -> Usage<'a> {
        let is_ours = |line: &FoundLine| {
            line.kind == "usage"
                && price.is_some_and(|price| price.price_id.is_some() && line.price == price.price_id)
                && line.from < period.end
                && line.to > period.start
        };
        let lines: Vec<_> = self
            .found
            .lines(period.account)
            .filter(|(_, line)| is_ours(line))
            .map(|(invoice, line)| Line {
                invoice: &invoice.id,
                quantity: line.quantity,
                amount: line.amount,
                status: invoice.status,
            })
            .collect();
        let charged = |status: LineStatus| {
            let lines = self.found.lines(period.account).filter(move |(invoice, line)| {
                invoice.status == status
                    && line.kind == "late_usage"
                    && line.from == period.start
                    && line.usage_type.as_ref() == Some(&id.usage_type)
            });
            lines.map(|(_, line)| line.amount).fold(0, i64::saturating_add)
        };
        let late = self.late.get(id).into_iter().flatten();
        Usage {
            usage_type: &id.usage_type,
            currency,
            priced: match price {
                _ if segment.is_trial => Priced::Free { why: "it is a trial" },
                Some(price) => price.price.map_or(Priced::Unknown, Priced::At),
                None if segment.has_prices => Priced::Not,
                None => Priced::Unknown,
            },
            stage: self.stage(period, &lines),
            counted: units.counted,
            carried_in: units.carried_in,
            carried_out: units.carried_out,
            reported: units.reported,
            late: late.map(|late| self.late(period, segment, late)).collect(),
            lines,
            charged: charged(LineStatus::Final),
            charged_void: charged(LineStatus::Void),
        }
    }

    fn stage(&self, period: &BillingPeriod, lines: &[Line<'_>]) -> Stage {
        if period.billed_by == BilledBy::Charge {
            return match period.final_at {
                None if period.end + FINAL_WITHIN >= self.now => Stage::Open,
                _ => Stage::Final,
            };
        }
        let made = (period.end - MADE_BEFORE)..=(period.end + MADE_WITHIN);
        let bills = |invoice: &&FoundInvoice| {
            made.contains(&invoice.created) && invoice.subscription.as_ref() == Some(&period.subscription)
        };
        let mut invoices = self
            .found
            .invoices
            .get(&period.account)
            .into_iter()
            .flatten()
            .filter(bills);
        let is_read = invoices.any(|invoice| invoice.status != LineStatus::Draft);
        let is_draft = lines.iter().any(|line| line.status == LineStatus::Draft);
        match period.final_at {
            _ if is_draft => Stage::Open,
            None if period.end + FINAL_WITHIN < self.now => Stage::Final,
            None => Stage::Open,
            Some(at) if self.source == Source::Copies && !is_read && self.now < at + COPIED_WITHIN => Stage::Unread,
            Some(_) => Stage::Final,
        }
    }

    fn late(&self, period: &BillingPeriod, segment: &Segment, late: &StoredLate) -> Late {
        let mut invoices = self.found.invoices.get(&period.account).into_iter().flatten();
        let outcome = match late {
            StoredLate { is_item: true, .. } => LateOutcome::Charged {
                cents: late.amount,
                // The next renewal takes the items that wait. Without one, the item has an invoice of its own.
                is_due: invoices.any(|invoice| {
                    invoice.is_renewal && invoice.status == LineStatus::Final && invoice.created > late.at
                }) || (period.billed_by == BilledBy::Charge || !segment.is_running)
                    && late.at + self.overdue_after < self.now,
            },
            StoredLate { is_settled: false, .. } => LateOutcome::Waiting,
            StoredLate { notes, .. } if notes.is_empty() => LateOutcome::Nothing {
                why: late.why.clone().unwrap_or_default(),
            },
            StoredLate { notes, .. } => LateOutcome::Credited {
                cents: late.amount.saturating_neg(),
                // Stripe has all credit notes. Copies may be late.
                noted: match self.source {
                    Source::Copies => notes.iter().map(|note| *self.found.notes.get(note)?).sum(),
                    Source::Stripe => notes
                        .iter()
                        .map(|note| self.found.notes.get(note).copied().unwrap_or(Some(0)))
                        .sum(),
                },
                why: late.why.clone(),
            },
        };
        Late {
            units: late.units,
            before: late.before,
            outcome,
        }
    }

    fn plan<'a>(&'a self, period: &'a BillingPeriod, segment: &'a Segment, currency: &'a str) -> Plan<'a> {
        let whole = segment.paid_for(period.end);
        let is_ours = |(invoice, line): &(&FoundInvoice, &FoundLine)| {
            matches!(line.kind.as_str(), "plan" | "proration")
                && (whole.0..whole.1).contains(&line.from)
                && invoice.subscription.as_ref() == Some(&period.subscription)
        };
        let lines = self
            .found
            .lines(period.account)
            .filter(is_ours)
            .map(|(invoice, line)| PlanLine {
                invoice: &invoice.id,
                status: invoice.status,
                kind: match line.kind.as_str() {
                    "plan" => PlanLineKind::Period,
                    _ => PlanLineKind::Proration,
                },
                amount: line.amount,
                quantity: line.quantity.max(1),
                price: line.price.as_ref().and_then(|price| {
                    let prices = self.plan_prices.get(price)?;
                    prices.get(&currency.parse().ok()?).copied()
                }),
                from: line.from,
                to: line.to,
                is_trial: segment.is_trial && line.kind == "plan",
            });
        let is_read = self.source == Source::Stripe || segment.is_copied;
        let is_old = period.final_at.is_some() || self.now > whole.0 + COPIED_WITHIN;
        let is_due = is_read && !segment.is_trial && is_old;
        Plan {
            plan: segment.plan.as_deref().unwrap_or("the plan"),
            currency,
            required: segment.price_cents.filter(|cents| *cents > 0 && is_due),
            period: whole,
            lines: lines.collect(),
        }
    }

    /// What the credit notes for corrections of the segment, and people during it, did to the customer's balance.
    fn balance(&self, asked: &Asked<'_>, currency: &str) -> Explained {
        let period = asked.period;
        let is_here = |id: &LineId| (id.account, id.start) == (period.account, period.start);
        let late = self
            .late
            .iter()
            .filter(|(id, _)| is_here(id))
            .flat_map(|(_, late)| late);
        let notes = late.flat_map(|late| &late.notes).filter_map(|note| {
            let returned = *self.found.returned.get(note)?;
            Some(CreditNote { id: note, returned })
        });
        let changes = self.found.balance.get(&period.account).into_iter().flatten();
        let during = period.start..asked.ends_at;
        let changes = changes.map(|change| BalanceChange {
            id: &change.id,
            amount: change.amount,
            note: change.note.as_deref(),
            is_adjustment: change.is_adjustment && during.contains(&change.created),
        });
        let (notes, changes): (Vec<_>, Vec<_>) = (notes.collect(), changes.collect());
        explain_balance(&notes, &changes, currency)
    }

    /// Usage on an invoice that no segment has a price for.
    fn strange(&self, asked: &Asked<'_>, currency: &str) -> Explained {
        let period = asked.period;
        let mut strange = Explained::default();
        for (invoice, line) in self.found.lines(period.account) {
            let is_here = line.kind == "usage"
                && line.amount != 0
                && invoice.status == LineStatus::Final
                && (period.start..asked.ends_at).contains(&line.from)
                && invoice.subscription.as_ref() == Some(&period.subscription);
            let is_known = self.prices.iter().any(|price| {
                price.account == period.account
                    && line.price.is_some()
                    && price.price_id == line.price
                    && line.from < price.bills_at
                    && line.to > price.start
            });
            let has_prices = self
                .segments
                .get(&(period.account, period.start))
                .is_some_and(|segment| segment.has_prices);
            if let (true, false, true, Some(usage_type)) = (is_here, is_known, has_prices, &line.usage_type) {
                strange.money.invoiced = strange.money.invoiced.saturating_add(line.amount);
                strange.money.difference = strange.money.invoiced;
                strange.state = MoneyState::Difference;
                let (amount, price) = (text(line.amount, currency), line.price.as_deref().unwrap_or("none"));
                strange.differences.push(format!(
                    "{usage_type}: {} bills {amount} at a price ({price}) that the period does not have",
                    invoice.id
                ));
            }
        }
        strange
    }
}
