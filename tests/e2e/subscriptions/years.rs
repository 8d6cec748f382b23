//! Subscriptions that are paid per year: limits and included units are for a month, and units are charged apart from the year.

mod changes;
mod charges;
mod euros;
mod killed;
mod other;
mod stored;
mod unpaid;

use billing_worker::{
    reports::{
        self,
        money::Source,
        reconcile::{self, Question, Reconciliation, Which},
    },
    subscriptions::slices,
    webhook::comparison,
};
use devstack::StripeDoubleOptions;
use schema::Catalogue;
use serde_json::{Value, json};
use std::time::Duration;
use time::macros::datetime;

use super::rig::{Rig, Subscriber};

/// Pro and Enterprise are sold by the year, too, and their units are billed as in [`super::upgrades`]. Team has no price per year, and
/// Flat and Wide bill no units.
const PLANS: &str = r#"
usage_types = ["api_call", "export", "sentiment_analysis"]

[[plan]]
id = "free"
name = "Free"
usage = { api_call = { limit = 100 }, export = { limit = 5 }, sentiment_analysis = { limit = 50 } }

[[plan]]
id = "flat"
name = "Flat"
prices = { month = 1000, year = 10000 }
usage = { api_call = { limit = 500 }, export = { limit = 10 }, sentiment_analysis = { limit = 100 } }

[[plan]]
id = "pro"
name = "Pro"
prices = { month = 2900, year = 29000 }
usage.api_call = { limit = 1_000, mode = "overage", unit_price_micros = 15_000 }
usage.export = { mode = "metered", unit_price_micros = 333_333 }
usage.sentiment_analysis = { limit = 2_000 }

[[plan]]
id = "team"
name = "Team"
prices = { month = 9900 }
usage = { api_call = { limit = 900 }, export = { limit = 100 }, sentiment_analysis = { limit = 2_000 } }

[[plan]]
id = "enterprise"
name = "Enterprise"
prices = { month = 29900, year = 299000 }
usage.api_call = { limit = 5_000, mode = "overage", unit_price_micros = 10_000 }
usage.export = { limit = 1_000 }
usage.sentiment_analysis = { limit = 2_000 }

[[plan]]
id = "wide"
name = "Wide"
prices = { month = 39900, year = 399000 }
usage = { api_call = { limit = 90_000 }, export = { limit = 100 }, sentiment_analysis = { limit = 2_000 } }
"#;

/// It begins on the 31st, which many months do not have.
async fn start(usage_billing: &str) -> Rig {
    let options = StripeDoubleOptions {
        start_at: Some(datetime!(2027-03-31 09:00:10 UTC).unix_timestamp()),
        ..StripeDoubleOptions::default()
    };
    let yearly = format!("year = 29000 }}\nusage_billing = \"{usage_billing}\"");
    let plans = PLANS.replacen("year = 29000 }", &yearly, 1);
    let rig = Rig::with(options, Catalogue::parse(&plans).unwrap()).await;
    rig.listen();
    rig
}

impl Rig {
    /// A subscriber who pays for a year.
    async fn paid_per_year(&self, name: &str, plan: &str) -> Subscriber {
        let who = self.subscriber(name).await;
        let body = json!({ "tier": plan, "interval": "year" });
        let opened = self.post(&who, "create-checkout-session", body).await.ok().unwrap();
        let session = opened["session_id"].as_str().unwrap();
        self.control().complete_checkout(session).unwrap();
        self.settle().await;
        who
    }

    /// What the billing worker does every five minutes.
    async fn charge(&self) {
        slices::step(&self.billing).await.unwrap();
        let reporter = self.billing.reporter().unwrap();
        reports::step(reporter, self.control().now()).await.unwrap();
    }

    /// Advances past the running month, and until its invoice is final.
    async fn end_month(&self, who: &Subscriber) {
        let end = self.period(who).await.end;
        for after_s in [60, 3_700, 7_400] {
            self.turn_to(end + after_s);
            self.settle().await;
            self.charge().await;
        }
        self.settle().await;
    }

    /// The totals of the final invoices, oldest first.
    fn totals(&self, who: &Subscriber) -> Vec<i64> {
        let invoices = self.control().invoices(&self.customers(who)[0]);
        let is_final = |invoice: &&Value| invoice["status"] != "draft";
        let total = |invoice: &Value| invoice["total"].as_i64().unwrap();
        invoices.iter().filter(is_final).map(total).collect()
    }

    /// Units and money of all periods.
    async fn reconciled(&self, source: Source) -> Reconciliation {
        comparison::run(&self.billing).await.unwrap();
        let question = Question {
            which: Which::All,
            account: None,
            recount: true,
            source,
            summaries: true,
        };
        let (reporter, now) = (self.billing.reporter().unwrap(), self.control().now());
        reconcile::run(reporter, &question, Duration::ZERO, now).await.unwrap()
    }

    /// Every unit and every cent is explained, by the copies and in Stripe. Returns owed, invoiced, credited and pending.
    async fn explained(&self) -> [i64; 4] {
        let mut sums = [0; 4];
        for source in [Source::Copies, Source::Stripe] {
            let found = self.reconciled(source).await;
            let totals = &found.totals;
            assert_eq!((totals.differing, totals.differing_periods), (0, 0), "{found:#?}");
            let money = totals.money["usd"];
            sums = [
                money.owed_cents,
                money.invoiced_cents,
                money.credited_cents,
                money.pending_cents,
            ];
        }
        sums
    }
}

/// Status and `error` of a request.
async fn asked(rig: &Rig, who: &Subscriber, path: &str, body: Value) -> (u16, String, String) {
    let answer = rig.post(who, path, body).await;
    let problem = answer.json().unwrap();
    let text = |field: &str| problem[field].as_str().unwrap_or_default().to_owned();
    (answer.status.as_u16(), text("error"), text("message"))
}
