//! The life of a subscription, step by step. After each step, what Stripe billed is compared with what the catalogue says.

use anyhow::{Context, Result, bail};
use schema::{Interval, Period, Plan, UsageType};
use serde::Deserialize;
use serde_json::json;

use super::{
    amounts::{self, Billed},
    customer::{Customer, TestCard},
    invoicing::{Made, Seen},
    plans::Plans,
    questions,
    report::{Report, money},
    test_clock::TestClock,
    worker::Worker,
};
use crate::{
    error::Error,
    reports::{
        money::Source,
        reconcile::{self, Question, Which},
    },
    stripe::{Class, Raw, object::List},
    subscriptions::{
        change::{self, CancelWhen, ChangeWhen},
        listing, payment_form,
    },
};

const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;
/// When a draft is looked at again, in hours after the one before. Stripe finalizes it after one hour, or after up to 72.
const FINAL_AFTER_H: [i64; 5] = [2, 10, 24, 24, 24];
/// Units above the included ones. Prices in half cents give a half to round.
const SMALL_ABOVE: i64 = 37;
const LARGE_ABOVE: i64 = 41;
/// Units that are voided: before the invoice is final, and after.
const VOIDED_IN_TIME: i64 = 5;
const VOIDED_LATE: i64 = 20;

pub(super) struct Life<'a> {
    pub worker: Worker,
    pub customer: Customer,
    pub clock: TestClock,
    pub plans: &'a Plans,
    pub report: &'a mut Report,
    pub seen: Seen,
    /// How long the longest draft was one, in hours.
    pub draft_h: i64,
}

impl Life<'_> {
    pub(super) async fn walk(mut self) -> Result<()> {
        self.subscribe().await.context("the subscription begins")?;
        let begun = self.use_small().await.context("usage on the small plan")?;
        self.declined_upgrade().await.context("a declined upgrade")?;
        self.upgrade().await.context("the upgrade")?;
        let upgraded = self.use_large().await.context("usage on the large plan")?;
        self.first_period_ends(&begun)
            .await
            .context("the end of the first period")?;
        let credit = self
            .correct(upgraded)
            .await
            .context("a correction after the invoice was final")?;
        self.smaller_plan(credit)
            .await
            .context("a smaller plan with the next period")?;
        self.failed_payment().await.context("a payment that fails")?;
        self.cancel().await.context("the cancellation")?;
        self.reconcile().await.context("the comparison of units")
    }

    async fn subscribe(&mut self) -> Result<()> {
        self.customer.pay_with(TestCard::Works, None).await?;
        let (billing, account) = (&self.worker.billing, self.worker.account);
        payment_form::subscribe(billing, account, &self.plans.small.id, Interval::Month).await?;
        self.pay_open().await?;
        self.worker.follow().await?;
        let made = self.seen.read(&self.worker).await?;
        made.compare(self.report, "subscribe", [Billed::plan(&self.plans.small)]);
        self.status("subscribe", "active").await
    }

    /// Reports more than is billed, and takes some of it back in time.
    async fn use_small(&mut self) -> Result<Vec<(UsageType, i64)>> {
        self.clock.advance_to(self.clock.now() + 10 * DAY).await?;
        let units = self.units(&self.plans.small, SMALL_ABOVE);
        let too_much: Vec<_> = units
            .iter()
            .map(|(usage_type, units)| (*usage_type, units + VOIDED_IN_TIME))
            .collect();
        let segment = self.worker.use_units(&too_much).await?;
        self.report
            .saw(questions::TIMESTAMPS, "yes: Stripe accepted and counted them");
        for (usage_type, _) in &units {
            self.worker.correct(segment, *usage_type, VOIDED_IN_TIME).await?;
        }
        self.worker.count().await?;
        self.report
            .saw(questions::NEGATIVE, "yes: Stripe accepted and counted it");
        Ok(units)
    }

    async fn declined_upgrade(&mut self) -> Result<()> {
        const STEP: &str = "declined upgrade";
        let subscription = self.worker.running().await?.subscription.id;
        self.customer.pay_with(TestCard::Declines, Some(&subscription)).await?;
        let (billing, account) = (&self.worker.billing, self.worker.account);
        let shown = match change::change_plan(billing, account, &self.plans.large.id, None, ChangeWhen::BySize).await {
            Err(Error::PaymentFailed(_)) => "declined".to_owned(),
            Err(other) => other.to_string(),
            Ok(()) => "paid".to_owned(),
        };
        self.report.compare(STEP, "answer", "declined", shown);
        self.worker.follow().await?;
        let made = self.seen.read(&self.worker).await?;
        self.report.compare(STEP, "invoices to pay", 0, made.invoices.len());
        let running = self.worker.running().await?;
        let pending = running.subscription.pending_update.is_some();
        self.report
            .compare(STEP, "plan", &self.plans.small.id, running.plan().unwrap_or("none"));
        let left = if pending {
            "the pending update stays"
        } else {
            "nothing: the pending update is gone"
        };
        self.report.saw(
            questions::DECLINED,
            format!("{left}; the status is {}", running.subscription.status),
        );
        self.customer.pay_with(TestCard::Works, Some(&subscription)).await
    }

    async fn upgrade(&mut self) -> Result<()> {
        let (billing, account) = (&self.worker.billing, self.worker.account);
        let (running, at) = (self.worker.running().await?, self.clock.now());
        let (start, end) = (running.period_start(), running.period_end());
        change::change_plan(billing, account, &self.plans.large.id, None, ChangeWhen::BySize).await?;
        self.worker.follow().await?;
        let made = self.seen.read(&self.worker).await?;
        let expected = Billed::change(&self.plans.small, &self.plans.large, end - at, end - start);
        made.compare(self.report, "upgrade", expected);
        self.report.saw(
            questions::UPGRADE,
            match made.usage_lines() {
                0 => "yes: it has no line of usage".to_owned(),
                lines => format!("no: it has {lines} lines of usage"),
            },
        );
        Ok(())
    }

    async fn use_large(&mut self) -> Result<Period> {
        self.clock.advance_to(self.clock.now() + 5 * DAY).await?;
        let units = self.units(&self.plans.large, LARGE_ABOVE);
        self.worker.use_units(&units).await
    }

    /// One invoice has the usage of both plans, each at its own prices.
    async fn first_period_ends(&mut self, begun: &[(UsageType, i64)]) -> Result<()> {
        let before = self.report.differences();
        let made = self.end_period().await?;
        let (small, large) = (&self.plans.small, &self.plans.large);
        let of_small = begun
            .iter()
            .map(|(usage_type, units)| Billed::usage(small, *usage_type, *units));
        let of_large = self.units(large, LARGE_ABOVE);
        let of_large = of_large
            .iter()
            .map(|(usage_type, units)| Billed::usage(large, *usage_type, *units));
        let expected: Vec<_> = of_small.chain(of_large).chain([Billed::plan(large)]).collect();
        made.compare(self.report, "end of the period", expected);
        let agrees = self.report.differences() == before;
        let seen = if agrees {
            "yes: all lines agree"
        } else {
            "look at the differences"
        };
        self.report.saw(questions::ADDED, seen);
        self.report.saw(questions::ROUNDING, seen);
        let quantities: Vec<_> = made.quantities.iter().map(i64::to_string).collect();
        self.report.saw(
            questions::TIERS,
            format!("lines with the quantities {}", quantities.join(", ")),
        );
        Ok(())
    }

    /// Returns the credit in cents.
    async fn correct(&mut self, segment: Period) -> Result<i64> {
        #[derive(Deserialize)]
        struct Note {
            amount: i64,
        }
        let large = &self.plans.large;
        let mut credit = 0;
        for usage_type in self.plans.billed(large) {
            self.worker.correct(segment, usage_type, VOIDED_LATE).await?;
            // All of them are above the included ones. Their price is rounded once.
            credit += amounts::cost(large, usage_type, large.allowance(usage_type).limit + VOIDED_LATE);
        }
        self.worker.report().await?;
        let list = Raw::get("/credit_notes", json!({ "customer": self.customer.id, "limit": 100 }));
        let notes: List<Note> = self.worker.billing.stripe()?.read(&list).await?;
        let given: i64 = notes.data.iter().map(|note| note.amount).sum();
        self.report
            .compare("correction", "credit notes", money(credit), money(given));
        Ok(credit)
    }

    async fn smaller_plan(&mut self, credit: i64) -> Result<()> {
        const STEP: &str = "smaller plan";
        let (small, large) = (&self.plans.small, &self.plans.large);
        let (billing, account) = (&self.worker.billing, self.worker.account);
        change::change_plan(billing, account, &small.id, None, ChangeWhen::BySize).await?;
        self.clock.advance_to(self.clock.now() + DAY).await?;
        let units = self.units(large, LARGE_ABOVE);
        self.worker.use_units(&units).await?;
        let made = self.end_period().await?;
        let usage = units
            .iter()
            .map(|(usage_type, units)| Billed::usage(large, *usage_type, *units));
        let expected: Vec<_> = usage.chain([Billed::plan(small)]).collect();
        let total: i64 = expected.iter().map(|(_, cents)| cents).sum();
        made.compare(self.report, STEP, expected);
        let used: i64 = made
            .invoices
            .iter()
            .map(|invoice| invoice.total - invoice.amount_due)
            .sum();
        self.report
            .compare(STEP, "paid by the credit", money(credit.min(total)), money(used));
        let seen = if used == credit.min(total) {
            "yes"
        } else {
            "look at the differences"
        };
        self.report.saw(questions::CREDIT, seen);
        let seen = if made.has_proration() {
            "yes: look at the differences"
        } else {
            "no"
        };
        self.report.saw(questions::PHASE, seen);
        Ok(())
    }

    /// A card that fails, and then one that works.
    async fn failed_payment(&mut self) -> Result<()> {
        const STEP: &str = "failed payment";
        let subscription = self.worker.running().await?.subscription.id;
        self.customer.pay_with(TestCard::Declines, Some(&subscription)).await?;
        self.clock.advance_to(self.clock.now() + DAY).await?;
        let small = &self.plans.small;
        let units = self.units(small, SMALL_ABOVE);
        self.worker.use_units(&units).await?;
        let made = self.end_period().await?;
        let usage = units
            .iter()
            .map(|(usage_type, units)| Billed::usage(small, *usage_type, *units));
        made.compare(self.report, STEP, usage.chain([Billed::plan(small)]));
        self.status(STEP, "past_due").await?;
        self.customer.pay_with(TestCard::Works, Some(&subscription)).await?;
        self.pay_open().await?;
        self.worker.follow().await?;
        self.status("paid after all", "active").await
    }

    async fn cancel(&mut self) -> Result<()> {
        const STEP: &str = "cancel now";
        self.clock.advance_to(self.clock.now() + DAY).await?;
        let small = &self.plans.small;
        let units = self.units(small, SMALL_ABOVE);
        self.worker.use_units(&units).await?;
        change::cancel(&self.worker.billing, self.worker.account, CancelWhen::Now).await?;
        self.worker.follow().await?;
        self.until_final().await?;
        let made = self.seen.read(&self.worker).await?;
        let before = self.report.differences();
        let usage = units
            .iter()
            .map(|(usage_type, units)| Billed::usage(small, *usage_type, *units));
        made.compare(self.report, STEP, usage);
        let agrees = self.report.differences() == before;
        self.report.saw(
            questions::CANCEL,
            if agrees { "yes" } else { "look at the differences" },
        );
        self.status(STEP, "canceled").await?;
        let (counted_after, draft_h) = (self.worker.counted_after, self.draft_h);
        self.report.saw(
            questions::COUNTED,
            format!("up to {:.1} s", counted_after.as_secs_f64()),
        );
        self.report.saw(questions::DRAFT, format!("up to {draft_h} hours"));
        Ok(())
    }

    /// ClickHouse, the ledger, Stripe's meters and its invoices.
    async fn reconcile(&mut self) -> Result<()> {
        let question = Question {
            which: Which::All,
            account: Some(self.worker.account),
            recount: true,
            source: Source::Stripe,
            summaries: true,
        };
        // It reads much at once, and only jobs may do that.
        let billing = self.worker.billing.in_class(Class::Sweep);
        let (reporter, now) = (billing.reporter()?, self.clock.now());
        let found = reconcile::run(reporter, &question, std::time::Duration::ZERO, now).await?;
        self.report
            .compare("reconcile", "lines whose units differ", 0, found.totals.differing);
        self.report.compare(
            "reconcile",
            "periods whose money differs",
            0,
            found.totals.differing_periods,
        );
        Ok(())
    }

    /// What is used of each usage type that the plan bills: all that is included, and more.
    fn units(&self, plan: &Plan, above: i64) -> Vec<(UsageType, i64)> {
        let billed = self.plans.billed(plan).into_iter();
        billed
            .map(|usage_type| (usage_type, plan.allowance(usage_type).limit + above))
            .collect()
    }

    /// Advances into the next period, lets the worker report the last usage, and reads the invoice when it is final.
    async fn end_period(&mut self) -> Result<Made> {
        let end = self.worker.running().await?.period_end();
        self.clock.advance_to(end + 60).await?;
        self.worker.follow().await?;
        self.until_final().await?;
        self.seen.read(&self.worker).await
    }

    async fn until_final(&mut self) -> Result<()> {
        let mut hours = 0;
        for more in FINAL_AFTER_H {
            if !self
                .worker
                .invoices()
                .await?
                .iter()
                .any(|invoice| invoice.status() == "draft")
            {
                self.draft_h = self.draft_h.max(hours);
                return Ok(());
            }
            hours += more;
            self.clock.advance_to(self.clock.now() + more * HOUR).await?;
            self.worker.follow().await?;
        }
        bail!("an invoice is still a draft after {hours} hours")
    }

    async fn pay_open(&self) -> Result<()> {
        let invoices = self.worker.invoices().await?;
        let open = invoices.iter().find(|invoice| invoice.status() == "open");
        let open = open.context("there is no invoice to pay")?;
        self.customer.pay(&open.id).await
    }

    /// Compares the status of the latest subscription.
    async fn status(&mut self, step: &'static str, ours: &str) -> Result<()> {
        let all = listing::all(self.worker.billing.stripe()?, &self.customer.id).await?;
        let stripe = all.first().map_or("none", |one| one.status.as_str());
        self.report.compare(step, "status", ours, stripe);
        Ok(())
    }
}
