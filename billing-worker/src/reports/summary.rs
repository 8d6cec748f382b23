//! The units that Stripe has: summaries of a meter's events. They lag behind the events.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use protocol::reports::period::BillingPeriod;
use serde::Deserialize;
use stripe_billing::billing_meter_event_summary::ListIdBillingMeterEventSummary;

use crate::stripe::{Stripe, StripeError, catalogue, error::Refusal, names, object::List};

/// Ids of the active meters by event name. They never change; a missing name is looked up again.
#[derive(Default)]
pub struct Meters {
    ids: Mutex<HashMap<String, String>>,
}

#[derive(Deserialize)]
struct Summary {
    aggregated_value: f64,
}

impl Meters {
    async fn id(&self, stripe: &Stripe, name: String) -> Result<String, StripeError> {
        if let Some(id) = self.known(&name) {
            return Ok(id);
        }
        // Without the lock, so that a slow listing blocks no other caller.
        let found = catalogue::meters(stripe).await?;
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).extend(found);
        self.known(&name).ok_or_else(|| {
            StripeError::Refused(Box::new(Refusal {
                message: format!("there is no active meter with the event name {name}"),
                param: Some("event_name".to_owned()),
                ..Refusal::default()
            }))
        })
    }

    fn known(&self, name: &str) -> Option<String> {
        self.ids
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
            .cloned()
    }

    /// The units that Stripe has for a usage type in a period.
    pub async fn units(&self, stripe: &Stripe, period: &BillingPeriod, usage_type: &str) -> Result<i64, StripeError> {
        let name = names::meter_event_name(usage_type, period.meter_slot);
        let (meter, window) = (self.id(stripe, name).await?, period.window());
        // The end comes first.
        let request = ListIdBillingMeterEventSummary::new(meter, period.customer.clone(), window.end, window.start);
        let summaries: List<Summary> = stripe.read(&request).await?;
        // One summary covers the whole window; there is none without usage.
        let units: f64 = summaries.data.iter().map(|summary| summary.aggregated_value).sum();
        // 2^53: beyond it a float does not represent every whole number.
        if units.fract() != 0.0 || units.abs() > 9_007_199_254_740_992.0 {
            return Err(StripeError::Unreadable(format!(
                "{units} is not a whole number of units"
            )));
        }
        #[expect(clippy::cast_possible_truncation, reason = "a whole number of at most 2^53")]
        Ok(units as i64)
    }
}
