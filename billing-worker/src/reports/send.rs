//! Sends reports: claims open ones, sends each once, and stores the outcome.
//!
//! It guarantees: an attempt is in the database before it is made. At most one attempt is in flight for a customer and a meter.
//! A slow response for one customer delays no other customer.

mod claim;
mod outcomes;
mod sent;

use anyhow::{Context, Result, bail};
use futures_util::{StreamExt, stream};
use protocol::reports::report::Mark;
use schema::AccountId;
use serde::Deserialize;
use stripe_billing::billing_meter_event::CreateBillingMeterEvent;

pub use self::{claim::Which, sent::Sent};
use self::{
    claim::{Attempt, Claimed, claim},
    outcomes::{Attempted, mark},
};
use super::{
    Reporter,
    outcome::{is_general, outcome},
};
use crate::stripe::{StripeError, Write, names};

/// Outcomes stored at once.
const MARKED: usize = 64;

/// Stripe's answer to a meter event.
#[derive(Deserialize)]
struct MeterEvent {
    identifier: String,
}

impl MeterEvent {
    /// Only Stripe repeats the identifier: a success of something else is no delivery.
    fn has(self, identifier: &str) -> Result<(), StripeError> {
        match self.identifier == identifier {
            true => Ok(()),
            false => Err(StripeError::Unreadable("it is about another meter event".to_owned())),
        }
    }
}

/// Sends the open reports of a page of accounts.
pub async fn page(reporter: &Reporter, accounts: &[AccountId], which: Which, now: i64) -> Result<Sent> {
    let mut sent = Sent::default();
    loop {
        let claimed = claim(reporter, accounts, which, now, &mut sent)
            .await
            .context("claiming reports")?;
        let count = i64::try_from(claimed.len())?;
        let attempts = stream::iter(claimed).map(|claimed| attempt(reporter, claimed, now));
        let mut answers = attempts
            .buffer_unordered(usize::from(reporter.settings.report_concurrency))
            .ready_chunks(MARKED);
        let mut unauthorized = None;
        while let Some(answers) = answers.next().await {
            mark(reporter, &answers, now, &mut sent)
                .await
                .context("storing the outcome of reports")?;
            for general in answers.into_iter().filter_map(|answered| answered.general) {
                match general {
                    StripeError::Refused(_) => sent.without_meter += 1,
                    error => unauthorized = Some(error),
                }
            }
        }
        if let Some(error) = unauthorized {
            bail!("no usage can be reported: {error}");
        }
        // Claimed reports are not due any more, except after a comparison, which an attempt follows. An account has at most a few
        // reports.
        if count == 0 || which == Which::All {
            return Ok(sent);
        }
    }
}

async fn attempt(reporter: &Reporter, claimed: Claimed, now: i64) -> Attempted {
    let stripe = reporter.stripe.of(claimed.period.account);
    let mut general = None;
    let mut note = |error: &StripeError| {
        if is_general(error) {
            general = Some(error.clone());
        }
    };
    let mark = match claimed.attempt {
        Attempt::Send => {
            let payload = [
                (names::PAYLOAD_CUSTOMER, claimed.period.customer.clone()),
                (names::PAYLOAD_VALUE, (claimed.to - claimed.from).to_string()),
            ];
            let payload = payload.map(|(key, value)| (key.to_owned(), value));
            let meter = names::meter_event_name(&claimed.usage_type, claimed.period.meter_slot);
            let request = CreateBillingMeterEvent::new(meter, payload)
                .identifier(&claimed.identifier)
                .timestamp(claimed.reported_for);
            let answer = stripe.write::<MeterEvent>(&request, Write::MeterEvent).await;
            let answer = answer.and_then(|event| event.has(&claimed.identifier));
            answer.as_ref().err().into_iter().for_each(&mut note);
            claimed.report.sent(outcome(answer), now)
        }
        Attempt::Compare => {
            let meters = &reporter.meters;
            match meters.units(&stripe, &claimed.period, &claimed.usage_type).await {
                Ok(units) => claimed.report.compared(claimed.from, claimed.to, units, now),
                Err(error) => {
                    note(&error);
                    match error {
                        StripeError::Refused(_) if general.is_none() => Mark::Parked {
                            first_sent_at: claimed.report.first_sent_at,
                            error: format!("could not read Stripe's summaries: {error}"),
                        },
                        error => claimed.report.not_compared(error.to_string(), now),
                    }
                }
            }
        }
    };
    Attempted { claimed, mark, general }
}
