//! The billing worker of a rehearsal: the worker's own code, in this process, on databases of its own. Its clock follows the test
//! clock. It receives no webhooks: after each step it reads what an event would have told it.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use schema::{AccountId, Catalogue, Period, UsageType, clock::Clock};
use service::Backoff;
use stripe_billing::invoice::ListInvoice;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::{stores::Stores, usage};
use crate::{
    accounts::plans,
    administration::{Administration, By, announce::Announcer},
    config::Settings,
    metrics::Metrics,
    reports::{
        self, Reporter,
        counted::{self, Counted},
    },
    stripe::{
        Stripe,
        object::{Invoice, List},
    },
    subscriptions::{
        billing::Billing,
        running::Running,
        selling::{self, Unused},
    },
    tasks,
    webhook::{claims::Received, effect},
};

/// How long Stripe may take until its summaries have what was reported.
const COUNTED_MAX: Duration = Duration::from_secs(5 * 60);
/// Tries of stored tasks after one step: each task is tried once or twice.
const TASKS_MAX: usize = 10;

pub(super) struct Worker {
    pub billing: Billing,
    pub account: AccountId,
    pub customer: String,
    /// The longest time that Stripe took to count what was reported.
    pub counted_after: Duration,
}

/// A worker on these databases, with the products, prices and meters of the catalogue in Stripe.
pub(super) async fn billing(
    settings: &Settings,
    stores: &Stores,
    catalogue: Catalogue,
    stripe: Stripe,
    clock: &Clock,
) -> Result<Billing> {
    let admin = Administration {
        db: stores.db.clone(),
        catalogue: Arc::new(catalogue),
        announcer: Announcer::to_nobody(),
        clickhouse: stores.clickhouse.clone(),
        corrections_wait: Arc::default(),
        by: By::Command,
        name: None,
    };
    plans::sync(&admin, clock.now_s()).await?;
    let (db, clickhouse, catalogue) = (admin.db.clone(), admin.clickhouse.clone(), admin.catalogue.clone());
    let (reports, metrics) = (settings.reports.clone(), Metrics::default().reports);
    let reporter = Reporter::new(db, clickhouse, stripe.clone(), catalogue, reports, metrics);
    let billing = Billing::new(admin, Some(reporter), settings.billing.clone(), clock.clone());
    let compared = selling::compare(&stripe, &billing.admin, Unused::Keep).await?;
    selling::apply(&stripe, &billing.admin, compared).await?;
    Ok(billing)
}

impl Worker {
    /// Reads the customer's subscription and invoices as after an event, does the stored tasks, and reports usage.
    pub(super) async fn follow(&self) -> Result<()> {
        let events = self.billing.by(By::Stripe);
        let named = self.invoices().await?.into_iter().map(|invoice| Some(invoice.id));
        let received: Vec<_> = named
            .chain([None])
            .map(|object_id| Received {
                id: "rehearsal".to_owned(),
                kind: match object_id {
                    Some(_) => "invoice.updated".to_owned(),
                    None => "customer.subscription.updated".to_owned(),
                },
                object_id,
                customer_id: Some(self.customer.clone()),
                attempts: 1,
            })
            .collect();
        effect::apply(&events, Some(&self.customer), &received).await?;
        let mut tried = 0;
        while tried < TASKS_MAX && tasks::worker::step(&events).await? > 0 {
            tried += 1;
        }
        self.report().await
    }

    /// Reports usage, as the worker does every `REPORT_INTERVAL`.
    pub(super) async fn report(&self) -> Result<()> {
        reports::step(self.billing.reporter()?, self.billing.clock.now_s()).await?;
        Ok(())
    }

    /// The customer's invoices in Stripe, the oldest first.
    pub(super) async fn invoices(&self) -> Result<Vec<Invoice>> {
        let list = ListInvoice::new().customer(self.customer.as_str()).limit(100);
        let mut found: List<Invoice> = self.billing.stripe()?.read(&list).await?;
        found.data.reverse();
        Ok(found.data)
    }

    pub(super) async fn running(&self) -> Result<Running> {
        let running = Running::find(&self.billing.admin.db, &self.billing, self.account).await;
        running.context("reading the subscription")
    }

    /// Stores units of the running segment, and waits until Stripe has counted them. Returns the segment.
    pub(super) async fn use_units(&mut self, units: &[(UsageType, i64)]) -> Result<Period> {
        let segment = self.segment().await?;
        let events = units
            .iter()
            .map(|(usage_type, units)| (self.account, usage_type.name(), *units));
        let (clickhouse, now) = (&self.billing.admin.clickhouse, self.billing.clock.now_s());
        usage::insert(clickhouse, now, segment, events, Uuid::nil()).await?;
        self.count().await?;
        Ok(segment)
    }

    /// Voids units of a segment.
    pub(super) async fn correct(&self, segment: Period, usage_type: UsageType, units: i64) -> Result<()> {
        let admin = &self.billing.admin;
        let (now, corrected) = (self.billing.clock.now_s(), (self.account, usage_type.name(), units));
        usage::correct(&admin.db, &admin.clickhouse, now, segment, corrected).await
    }

    /// Reports usage, and waits until Stripe has counted it.
    pub(super) async fn count(&mut self) -> Result<()> {
        self.report().await?;
        let (reporter, subscription) = (self.billing.reporter()?, self.running().await?.subscription.id);
        let began = Instant::now();
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        while counted::look(reporter, self.account, &subscription).await? == Counted::Behind {
            if began.elapsed() > COUNTED_MAX {
                bail!("Stripe has not counted the reported usage within {COUNTED_MAX:?}");
            }
            sleep(backoff.next_delay()).await;
        }
        self.counted_after = self.counted_after.max(began.elapsed());
        Ok(())
    }

    /// The segment that a gateway counts usage in now.
    async fn segment(&self) -> Result<Period> {
        let row = sqlx::query!(
            "select period_start, period_end from billing_periods where account_id = $1 order by period_start desc limit 1",
            self.account.0
        );
        let row = row.fetch_optional(&self.billing.admin.db).await?;
        let row = row.context("the account has no billing period")?;
        Ok(Period {
            start: row.period_start.unix_timestamp(),
            end: row.period_end.unix_timestamp(),
        })
    }
}
