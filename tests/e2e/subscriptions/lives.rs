//! Random lives of customers: whatever they do and in whatever order, Stripe charges what an oracle computes from the history alone,
//! to the cent, through faults, killed workers, and webhooks in any order.

mod catalogue;
mod customer;
mod oracle;

use std::time::Duration;

use billing_worker::{
    reports::{
        self,
        money::Source,
        reconcile::{self, Question, Which},
        settings::LateUsage,
    },
    subscriptions::{
        change::{self, CancelWhen, ChangeWhen},
        slices,
    },
};
use devstack::{
    StripeDoubleOptions,
    stripe_double::{Card, FaultKind, FaultRule, WebhookBehavior},
};
use harness::eventually;
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use self::{catalogue::Terms, customer::Customer};
use super::rig::{DAY_S, Rig};

const CUSTOMERS: usize = 3;
const STEPS: usize = 60;
const USAGE_TYPES: [&str; 2] = ["api_call", "export"];
/// A step takes less of Stripe's time, unless it turns the clock.
const STEP_MAX_S: i64 = 1_800;
/// A change makes fewer calls to Stripe.
const CALLS_MAX: u32 = 25;

struct Life {
    rig: Rig,
    customers: Vec<Customer>,
    terms: Terms,
    random: StdRng,
    /// What was done, to be printed with a failure.
    history: Vec<String>,
}

#[tokio::test(flavor = "multi_thread")]
async fn stripe_charges_what_the_history_says() {
    let first: u64 = std::env::var("LIVES_SEED").ok().map_or(1, |seed| seed.parse().unwrap());
    let lives: u64 = std::env::var("LIVES").ok().map_or(2, |lives| lives.parse().unwrap());
    for seed in first..first + lives {
        let mut life = Life::begin(seed).await;
        // A failed assertion shows the history.
        let lived = std::panic::AssertUnwindSafe(life.live());
        if let Err(failure) = futures_util::FutureExt::catch_unwind(lived).await {
            eprintln!("LIVES_SEED={seed} LIVES=1:\n{}", life.history.join("\n"));
            std::panic::resume_unwind(failure);
        }
    }
}

impl Life {
    async fn begin(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        // Ten seconds after a full minute, because meters count whole minutes.
        let start_at = 1_800_000_010 + random.random_range(0..365) * DAY_S;
        let options = StripeDoubleOptions {
            start_at: Some(start_at),
            ..StripeDoubleOptions::default()
        };
        let mut rig = Rig::with(options, Terms::FIRST.catalogue()).await;
        rig.late_usage(LateUsage::CreditOrCharge).await;
        rig.control().set_webhooks(WebhookBehavior {
            shuffle: true,
            copies: 2,
            ..WebhookBehavior::default()
        });
        rig.listen();
        let mut customers = Vec::new();
        for name in 0..CUSTOMERS {
            customers.push(Customer::new(&rig, &format!("customer-{name}")).await);
        }
        Self {
            rig,
            customers,
            terms: Terms::FIRST,
            random,
            history: Vec::new(),
        }
    }

    async fn live(&mut self) {
        for step in 0..STEPS {
            let who = self.random.random_range(0..CUSTOMERS);
            self.pass_ends().await;
            self.disturb(step as u64);
            self.step(who).await;
            self.calm().await;
            // Time passes while they act, and a month may end in it.
            let now = self.rig.control().now();
            for customer in &mut self.customers {
                customer.owes.advance(now);
            }
            for customer in &self.customers {
                customer.assert_shown(&self.rig).await;
            }
        }
        for customer in &mut self.customers {
            if customer.owes.plan().is_some() {
                customer.cancels_now(&self.rig).await;
            }
        }
        // The last invoices become final, and what was retried becomes due.
        for _ in 0..3 {
            self.rig.turn_by(DAY_S);
            self.calm().await;
        }
        for customer in &self.customers {
            customer.assert_charged(&self.rig).await;
        }
        self.assert_reconciled().await;
        self.rig.assert_valid();
    }

    /// No month ends in the middle of a step: whether a change comes before or after the end would be left to chance.
    async fn pass_ends(&mut self) {
        loop {
            let now = self.rig.control().now();
            let ends = self.customers.iter().filter_map(|customer| customer.owes.month_end());
            let Some(end) = ends.filter(|end| end - now < STEP_MAX_S).max() else {
                return;
            };
            self.turn_to(end + 60).await;
            self.calm().await;
        }
    }

    /// One call in ten fails from now on, before or after it takes effect.
    fn disturb(&self, seed: u64) {
        let faults = [
            (FaultKind::ServerError, false),
            (FaultKind::ServerError, true),
            (FaultKind::Reset, false),
            (FaultKind::Reset, true),
            (FaultKind::CutBody, true),
            (FaultKind::TooManyRequests { retry_after_s: None }, false),
        ];
        for (number, (kind, is_after)) in (0..).zip(faults) {
            let fault = FaultRule::new(kind).path("/v1/").probability(0.017, seed * 10 + number);
            self.rig
                .control()
                .add_fault(if is_after { fault.after() } else { fault });
        }
    }

    /// No call fails any more, and everything that is due is done.
    async fn calm(&self) {
        self.rig.control().clear_faults();
        for _ in 0..2 {
            self.rig.settle().await;
            self.report().await;
            self.rig.run_open_tasks().await;
        }
        self.rig.settle().await;
    }

    async fn report(&self) {
        let (reporter, now) = (self.rig.billing.reporter().unwrap(), self.rig.control().now());
        // With faults, the next step continues.
        drop(slices::step(&self.rig.billing).await);
        drop(reports::step(reporter, now).await);
    }

    async fn step(&mut self, who: usize) {
        let Some(plan) = self.customers[who].owes.plan() else {
            let months = *[1, 1, 12].choose(&mut self.random).unwrap();
            let offers = self.terms.offers(months);
            let offer = offers.choose(&mut self.random).unwrap();
            self.note(who, format!("subscribes to {} for {months} months", offer.plan));
            return self.customers[who].subscribe(&self.rig, offer).await;
        };
        let months = self.customers[who].owes.months().unwrap();
        let offers = self.terms.offers(months);
        let position = offers.iter().position(|offer| offer.plan == plan).unwrap();
        let usage_type = *USAGE_TYPES.choose(&mut self.random).unwrap();
        let units = match usage_type {
            "api_call" => self.random.random_range(1..4_000),
            _ => self.random.random_range(1..20),
        };
        let part = self.random.random_range(0..self.customers[who].owes.parts.len());
        match self.random.random_range(0..100) {
            0..30 => {
                self.note(who, format!("uses {units} {usage_type}"));
                self.customers[who].uses(&self.rig, usage_type, units).await;
                self.report().await;
            }
            30..38 => {
                self.note(
                    who,
                    format!("uses {units} {usage_type} that arrive late, of part {part}"),
                );
                self.customers[who].uses_late(&self.rig, part, usage_type, units).await;
            }
            38..48 => {
                self.note(who, format!("has {units} {usage_type} of part {part} voided"));
                self.customers[who]
                    .is_corrected(&self.rig, part, usage_type, units)
                    .await;
                self.report().await;
            }
            48..58 => {
                let Some(offer) = offers[position + 1..].choose(&mut self.random) else {
                    return;
                };
                self.note(who, format!("upgrades to {}", offer.plan));
                self.kill(who, Some(offer.plan)).await;
                if self.customers[who].owes.plan() == Some(plan) {
                    self.customers[who].upgrades(&self.rig, offer).await;
                }
            }
            58..66 => {
                let others: Vec<_> = offers.iter().filter(|offer| offer.plan != plan).collect();
                let offer = *others.choose(&mut self.random).unwrap();
                self.note(who, format!("changes to {} with the next period", offer.plan));
                self.customers[who].changes_with_the_month(&self.rig, offer).await;
            }
            66..71 if !self.customers[who].owes.ends() => {
                self.note(who, "cancels".to_owned());
                self.kill(who, None).await;
                if self.customers[who].owes.plan().is_some() {
                    self.customers[who].cancels(&self.rig).await;
                }
            }
            71..76 if self.customers[who].owes.has_a_planned_change() => {
                self.note(who, "resumes".to_owned());
                self.customers[who].resumes(&self.rig).await;
            }
            76..79 => {
                self.note(who, "cancels now".to_owned());
                self.customers[who].cancels_now(&self.rig).await;
            }
            79..82 => self.change_prices().await,
            82..86 => self.miss_a_payment(who).await,
            // The months of a year are charged apart from the subscription.
            86..88 if months == 1 => self.pause(who).await,
            86..95 => {
                let owes = &self.customers[who].owes;
                let (end, what) = match self.random.random_range(0..3) {
                    0 => (owes.paid_until(), "period"),
                    _ => (owes.month_end(), "month"),
                };
                self.note(who, format!("comes to the end of the {what}"));
                for after_s in [60, 2 * 3_600] {
                    self.turn_to(end.unwrap() + after_s).await;
                }
            }
            _ => {
                let days = self.random.random_range(1..20);
                self.note(who, format!("waits {days} days"));
                self.turn_to(self.rig.control().now() + days * DAY_S).await;
            }
        }
    }

    fn note(&mut self, who: usize, what: String) {
        let at = self.rig.control().now();
        self.history.push(format!("{at}: {who} {what}"));
    }

    async fn turn_to(&mut self, at: i64) {
        self.rig.turn_to(at);
        let now = self.rig.control().now();
        for customer in &mut self.customers {
            customer.owes.advance(now);
        }
        self.rig.settle().await;
        self.report().await;
    }

    async fn change_prices(&mut self) {
        self.terms = Terms {
            pro_cents: self.random.random_range(1_000..5_000),
            pro_call_micros: *[15_000, 15_000, 12_345].choose(&mut self.random).unwrap(),
            enterprise_cents: self.random.random_range(20_000..40_000),
        };
        self.history.push(format!("prices change: {:?}", self.terms));
        self.rig.control().clear_faults();
        self.rig.roll_out(self.terms.catalogue()).await;
    }

    /// A month's invoice is not paid at once.
    async fn miss_a_payment(&mut self, who: usize) {
        self.note(who, "misses a payment, and pays later".to_owned());
        self.customers[who].card(&self.rig, Card::Declines);
        let end = self.customers[who].owes.paid_until().unwrap();
        for after_s in [60, 2 * 3_600] {
            self.turn_to(end + after_s).await;
        }
        self.customers[who].card(&self.rig, Card::Ok);
        self.customers[who].pays(&self.rig);
        self.calm().await;
    }

    /// Nobody pays for the month that ends, and for the next one.
    async fn pause(&mut self, who: usize) {
        self.note(who, "is paused while a month ends".to_owned());
        self.rig.control().clear_faults();
        self.customers[who].is_paused(&self.rig, true).await;
        let end = self.customers[who].owes.month_end().unwrap();
        for after_s in [60, 2 * 3_600] {
            self.turn_to(end + after_s).await;
        }
        // A planned cancellation ended it.
        if self.customers[who].owes.plan().is_some() {
            self.customers[who].is_paused(&self.rig, false).await;
        }
        self.customers[who].owes.is_paused = false;
    }

    /// A worker begins a change, an upgrade to this plan or a cancellation, and dies in it.
    async fn kill(&mut self, who: usize, plan: Option<&str>) {
        let calls = self.random.random_range(0..CALLS_MAX);
        let account = self.customers[who].who.account;
        self.rig.control().clear_faults();
        let previewed = match plan {
            Some(plan) => self.customers[who].previews(&self.rig, plan).await,
            None => 0,
        };
        let hangs = FaultRule::new(FaultKind::Hang { ms: 60_000 }).skip(calls);
        self.rig.control().add_fault(hangs);
        let hung = eventually("a call hangs", async || {
            (self.rig.control().faults_struck() > 0).then_some(())
        });
        let changed = async {
            match plan {
                Some(plan) => {
                    change::change_plan(&self.rig.billing, account, plan, None, ChangeWhen::Previewed(previewed)).await
                }
                None => change::cancel(&self.rig.billing, account, CancelWhen::PeriodEnd).await,
            }
        };
        tokio::select! {
            _ = changed => {}
            () = hung => {}
        }
        self.rig.control().clear_faults();
        sqlx::query("update subscription_leases set held_until = now()")
            .execute(&self.rig.pool)
            .await
            .unwrap();
        self.calm().await;
        // It may have made the change, or not.
        let subscription = self.rig.subscription(&self.customers[who].who).await;
        match plan {
            Some(plan) if subscription["tier"] == plan => {
                let offers = self.terms.offers(self.customers[who].owes.months().unwrap());
                let offer = offers.iter().find(|offer| offer.plan == plan).unwrap();
                self.customers[who].owes.upgrade(previewed, offer);
            }
            // The month may have ended meanwhile.
            None if subscription["cancel_at_period_end"] == true || subscription["tier"] == "free" => {
                self.customers[who].owes.end_with_the_month();
                let now = self.rig.control().now();
                self.customers[who].owes.advance(now);
            }
            _ => {}
        }
    }

    async fn assert_reconciled(&self) {
        let question = Question {
            which: Which::All,
            account: None,
            recount: true,
            source: Source::Copies,
            summaries: true,
        };
        let (reporter, now) = (self.rig.billing.reporter().unwrap(), self.rig.control().now());
        let found = reconcile::run(reporter, &question, Duration::ZERO, now).await.unwrap();
        let totals = &found.totals;
        assert_eq!(
            (totals.differing, totals.pending, totals.open, totals.differing_periods),
            (0, 0, 0, 0),
            "{found:#?}"
        );
    }
}
