//! `billing-worker stripe rehearse`: walks through the whole life of a subscription in a Stripe sandbox, in the time of a test clock,
//! and compares what Stripe bills with what the catalogue says.
//!
//! It disturbs no running service: it has databases of its own, plans of its own, and a customer whom no service has to link. At its
//! end, also after a failure or a signal, it removes the databases and the test clock. Only the products, prices and meters stay.
//!
//! | what | file |
//! |---|---|
//! | the name of its databases and its test clock | [`name`] |
//! | its databases | [`stores`] |
//! | its plans | [`plans`] |
//! | its time | [`test_clock`] |
//! | its customer, and the cards that pay | [`customer`] |
//! | the billing worker, in this process | [`worker`] |
//! | usage without a gateway | [`usage`] |
//! | the steps | [`life`] |
//! | what a line should cost | [`amounts`] |
//! | the lines that Stripe made | [`invoicing`] |
//! | what the documentation leaves open | [`questions`] |
//! | the result | [`report`] |

mod amounts;
mod customer;
mod invoicing;
mod life;
mod name;
mod plans;
mod questions;
pub mod report;
mod stores;
mod test_clock;
pub mod usage;
mod worker;

use std::time::Duration;

use anyhow::{Context, Result, bail};
use schema::clock::{self, Clock};
use service::Lifecycle;
use sqlx::PgPool;
use tokio::time::timeout;
use tracing::info;

use self::{
    customer::Customer,
    invoicing::Seen,
    life::Life,
    name::Name,
    plans::Plans,
    report::Report,
    stores::{Servers, Stores},
    test_clock::TestClock,
    worker::Worker,
};
use crate::{
    accounts::create::{self, NewAccount},
    config::Settings,
    error::Error,
    stripe::{Class, Stripe, StripeError, StripeMetrics},
};

/// The longest time for removing what the rehearsal made.
const REMOVED_WITHIN: Duration = Duration::from_secs(2 * 60);

/// What happens to the test clock at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Afterwards {
    Delete,
    /// It stays in Stripe, with the customer, the subscription and the invoices.
    Keep,
}

/// Rehearses, and removes what it made. What was compared until a failure is in the report.
pub async fn run(settings: &Settings, db: &PgPool, afterwards: Afterwards) -> (Report, Result<()>) {
    let mut report = Report::default();
    let done = guarded(settings, db, afterwards, &mut report).await;
    (report, done)
}

async fn guarded(settings: &Settings, db: &PgPool, afterwards: Afterwards, report: &mut Report) -> Result<()> {
    let stripe = stripe(settings)?;
    let life = Lifecycle::new();
    life.stop_on_signals(Duration::ZERO)?;
    let database = db.connect_options().get_database().unwrap_or("trendit").to_owned();
    let name = Name::new(&database, clock::now_ms());
    let servers = Servers {
        db: db.clone(),
        clickhouse: settings.clickhouse.clone(),
    };
    remove(&servers, &stripe, &name, |found| name.is_left_behind(found)).await?;
    let mut stores = None;
    let walked = tokio::select! {
        walked = walk(settings, &servers, &stripe, &name, afterwards, report, &mut stores) => walked,
        () = life.stopping() => Err(anyhow::anyhow!("stopped by a signal")),
    };
    let own = name.text();
    let removed = timeout(REMOVED_WITHIN, async {
        if let Some(Stores { db, .. }) = stores {
            db.close().await;
        }
        remove(&servers, &stripe, &name, |found| found == own).await
    })
    .await;
    life.stop();
    let removed = match removed {
        Ok(removed) => removed,
        Err(_) => bail!("not removed within {REMOVED_WITHIN:?}; the next rehearsal removes it after 12 hours"),
    };
    walked.and(removed.context("removing what the rehearsal made"))
}

async fn walk(
    settings: &Settings,
    servers: &Servers,
    stripe: &Stripe,
    name: &Name,
    afterwards: Afterwards,
    report: &mut Report,
    stores: &mut Option<Stores>,
) -> Result<()> {
    let plans = Plans::of(&settings.catalogue)?;
    report.plans.clone_from(&plans.source);
    info!(plans = plans.source, "rehearsing");
    let made = servers.create(name).await?;
    let stores = stores.insert(made);
    let time = Clock::default();
    let billing = worker::billing(settings, stores, plans.catalogue.clone(), stripe.clone(), &time).await?;
    // Ten seconds after a full minute: meters count whole minutes.
    let begins_at = clock::now_s().div_euclid(60) * 60 + 10;
    let is_kept = afterwards == Afterwards::Keep;
    let test_clock = TestClock::create(stripe, &name.of_clock(is_kept), begins_at, &time).await?;
    if is_kept {
        report.test_clock = Some(test_clock.id.clone());
    }
    let email = format!("rehearsal-{begins_at}@example.com");
    let new = NewAccount {
        name: "Rehearsal".to_owned(),
        email: email.clone(),
        plan: None,
    };
    let account = create::create(&billing.admin, new, time.now_s()).await?;
    let customer = Customer::create(&billing, account, &test_clock, &email).await?;
    let life = Life {
        worker: Worker {
            billing,
            account,
            customer: customer.id.clone(),
            counted_after: Duration::ZERO,
        },
        customer,
        clock: test_clock,
        plans: &plans,
        report,
        seen: Seen::default(),
        draft_h: 0,
    };
    life.walk().await
}

/// Removes the databases and test clocks whose name is wanted. One that cannot be removed does not keep the others.
async fn remove(servers: &Servers, stripe: &Stripe, name: &Name, is_wanted: impl Fn(&str) -> bool) -> Result<()> {
    let clocks = test_clock::delete(stripe, &is_wanted)
        .await
        .context("deleting test clocks");
    let databases = servers.drop(name.prefix(), &is_wanted).await;
    clocks.and(databases)
}

/// Tax would need an address, and lines are compared without it.
fn stripe(settings: &Settings) -> Result<Stripe> {
    let mut settings = settings.stripe.clone();
    settings.automatic_tax = false;
    let stripe = Stripe::new(&settings, StripeMetrics::default())?;
    let stripe = stripe.ok_or(Error::Stripe(StripeError::NotConfigured))?;
    Ok(stripe.in_class(Class::Change))
}
