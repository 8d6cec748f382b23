//! A test clock in Stripe: the time of its customers, which stands still until it is advanced. The worker's clock follows it.
//! (<https://docs.stripe.com/billing/testing/test-clocks>)

use std::time::Duration;

use anyhow::{Context, Result, bail};
use schema::clock::Clock;
use serde::Deserialize;
use serde_json::{Value, json};
use service::Backoff;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::stripe::{Raw, Stripe, StripeError, Write, object::List};

/// The longest wait for one advance. Stripe makes all invoices that are due in it.
const ADVANCE_MAX: Duration = Duration::from_secs(15 * 60);
/// How many clocks are looked at to find those of earlier rehearsals. Stripe deletes a clock after 30 days.
const LISTED: i64 = 100;

pub(super) struct TestClock {
    pub id: String,
    stripe: Stripe,
    clock: Clock,
}

#[derive(Debug, Deserialize)]
struct Found {
    id: String,
    name: Option<String>,
    status: String,
    frozen_time: i64,
}

impl TestClock {
    /// From now on, `clock` stands still at `at`.
    pub(super) async fn create(stripe: &Stripe, name: &str, at: i64, clock: &Clock) -> Result<Self> {
        let create = Raw::post("/test_helpers/test_clocks", json!({ "frozen_time": at, "name": name }));
        let made: Found = stripe
            .write(&create, Write::Keyed(&key()))
            .await
            .context("making a test clock")?;
        clock.freeze_at(made.frozen_time);
        Ok(Self {
            id: made.id,
            stripe: stripe.clone(),
            clock: clock.clone(),
        })
    }

    pub(super) fn now(&self) -> i64 {
        self.clock.now_s()
    }

    /// Advances the clock, and waits until Stripe has done everything that is due.
    pub(super) async fn advance_to(&self, to: i64) -> Result<()> {
        let path = format!("/test_helpers/test_clocks/{}", self.id);
        let advance = Raw::post(format!("{path}/advance"), json!({ "frozen_time": to }));
        let began = Instant::now();
        let mut found: Found =
            (self.stripe.write(&advance, Write::Keyed(&key())).await).context("advancing the test clock")?;
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
        while found.status == "advancing" {
            if began.elapsed() > ADVANCE_MAX {
                bail!("the test clock is not ready {ADVANCE_MAX:?} after it was advanced");
            }
            sleep(backoff.next_delay()).await;
            found = (self.stripe.read(&Raw::get(path.clone(), json!({}))).await).context("reading the test clock")?;
        }
        if found.status != "ready" {
            bail!(
                "Stripe could not advance the test clock: its status is {}",
                found.status
            );
        }
        self.clock.freeze_at(found.frozen_time);
        Ok(())
    }
}

/// Deletes the test clocks whose name is wanted; Stripe deletes their customers and subscriptions.
pub(super) async fn delete(stripe: &Stripe, is_wanted: impl Fn(&str) -> bool) -> Result<(), StripeError> {
    let list = Raw::get("/test_helpers/test_clocks", json!({ "limit": LISTED }));
    let found: List<Found> = stripe.read(&list).await?;
    for clock in found.data {
        if !clock.name.as_deref().is_some_and(&is_wanted) {
            continue;
        }
        let delete = Raw::delete(format!("/test_helpers/test_clocks/{}", clock.id));
        match stripe.write::<Value>(&delete, Write::Settable).await {
            Err(failure) if !failure.is_missing() => return Err(failure),
            _ => {}
        }
    }
    Ok(())
}

fn key() -> String {
    format!("rehearse-{}", Uuid::now_v7())
}
