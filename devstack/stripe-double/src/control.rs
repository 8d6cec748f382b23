//! How a test controls and inspects the double. Every method returns immediately, except those that wait for webhooks.

pub(crate) mod over_http;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::api::{checkout, disputes, expand};
use crate::billing::advance;
use crate::billing::payment::{self, debit};
use crate::failure::Failure;
use crate::objects::payment::Status;
use crate::objects::usage::Counted;
use crate::objects::{dispute, event, invoice};
use crate::options::{AfterDunning, Card, WebhookBehavior};
use crate::server::double::Double;
use crate::server::edge::RecordedRequest;
use crate::server::faults::FaultRule;
use crate::server::webhooks;
use crate::spec::API_VERSION;

/// A handle on a running double; cheap to clone.
#[derive(Clone)]
pub struct Control {
    pub(crate) double: Arc<Double>,
}

/// An event, as [`Control::events`] lists them, oldest first.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EmittedEvent {
    pub id: String,
    #[serde(rename = "type")]
    pub kind: String,
    /// Unix seconds of the double's clock.
    pub created: i64,
    /// Endpoints that have not acknowledged it.
    pub pending: usize,
    /// The event as an endpoint with the double's API version receives it.
    pub body: Value,
}

/// A meter event, as [`Control::meter_events`] lists them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MeterEvent {
    pub identifier: String,
    pub customer: String,
    pub event_name: String,
    /// Unix seconds.
    pub timestamp: i64,
    pub units: i64,
}

impl Control {
    /// Unix seconds.
    pub fn now(&self) -> i64 {
        self.double.state().now()
    }

    /// Advances the clock to `to`, never back, and does everything that is due until then, in order.
    pub fn advance_to(&self, to: i64) {
        advance::up_to(&mut self.double.state(), to);
        self.double.wake.notify_one();
    }

    pub fn advance_by(&self, seconds: i64) {
        self.advance_to(self.now() + seconds);
    }

    /// The recorded calls, oldest first.
    pub fn requests(&self) -> Vec<RecordedRequest> {
        self.double.edge().requests()
    }

    pub fn clear_requests(&self) {
        self.double.edge().clear_requests();
    }

    /// The mistakes in calls and in the double's own objects. At the end of a test there should be none.
    pub fn violations(&self) -> Vec<String> {
        self.double.state().violations()
    }

    /// Returns and clears the violations, for a test that makes mistakes on purpose.
    pub fn take_violations(&self) -> Vec<String> {
        self.double.state().take_violations()
    }

    pub fn add_fault(&self, rule: FaultRule) {
        self.double.edge().faults.add(rule);
    }

    pub fn clear_faults(&self) {
        self.double.edge().faults.clear();
    }

    /// How many calls got a fault since the rules were last cleared. A call that hangs counts from its beginning.
    pub fn faults_struck(&self) -> usize {
        self.double.edge().faults.struck()
    }

    pub fn set_latency(&self, latency: Duration) {
        self.double.edge().latency = latency;
    }

    pub fn set_calls_per_second(&self, limit: Option<u32>) {
        self.double.edge().calls_per_second = limit;
    }

    /// Maximum number of calls per second of one endpoint, such as `POST /v1/subscriptions`.
    pub fn set_endpoint_calls_per_second(&self, limit: Option<u32>) {
        self.double.edge().endpoint_calls_per_second = limit;
    }

    pub fn set_draft_for_s(&self, seconds: i64) {
        self.double.state().settings.draft_for_s = seconds;
    }

    pub fn set_summary_lag_s(&self, seconds: i64) {
        self.double.state().settings.summary_lag_s = seconds;
    }

    /// Whether the customer portal has a default configuration, which Stripe's dashboard makes.
    pub fn set_portal_is_configured(&self, is_configured: bool) {
        self.double.state().configure_portal(is_configured);
    }

    /// How many cents too much lines of usage cost on later invoices.
    pub fn set_usage_wrong_by_cents(&self, cents: i64) {
        self.double.state().settings.usage_wrong_by_cents = cents;
    }

    /// For later meter events.
    pub fn set_metering_lag_s(&self, seconds: i64) {
        self.double.state().settings.metering_lag_s = seconds;
    }

    /// Strict mode: whether calls whose effect at Stripe is not certain are violations. Off by default.
    pub fn set_strict(&self, is_strict: bool) {
        self.double.state().is_strict = is_strict;
    }

    /// The rate of automatic tax of later invoices, in hundredths of a percent.
    pub fn set_tax_basis_points(&self, rate: Option<i64>) {
        self.double.state().settings.tax_basis_points = rate;
    }

    /// How long later bank debits are processing.
    pub fn set_bank_debit_settles_after_s(&self, seconds: i64) {
        self.double.state().settings.bank_debit_settles_after_s = seconds;
    }

    pub fn set_dunning(&self, days: Vec<i64>, after: AfterDunning) {
        let settings = &mut self.double.state().settings;
        (settings.dunning_days, settings.after_dunning) = (days, after);
    }

    /// Sets how later events are delivered.
    pub fn set_webhooks(&self, behavior: WebhookBehavior) {
        self.double.state().outbox.behavior = behavior;
        self.double.wake.notify_one();
    }

    /// Adds an endpoint for all events, signed with [`crate::StripeDouble::webhook_secret`], and returns its id.
    pub fn add_webhook(&self, url: &str) -> Result<String> {
        self.add_webhook_of_version(url, API_VERSION)
    }

    /// The same for another API version. Before `2025-03-31` objects have their older shape.
    pub fn add_webhook_of_version(&self, url: &str, api_version: &str) -> Result<String> {
        let mut state = self.double.state();
        let now = state.now();
        let id = state
            .add_endpoint(url, self.double.webhook_secret.clone(), now)
            .map_err(error)?;
        if let Some(endpoint) = state.endpoints.get_mut(&id) {
            endpoint.api_version = Some(api_version.to_owned());
        }
        Ok(id)
    }

    /// Gives an endpoint a new signing secret. Both secrets sign for `overlap_s` of the double's clock.
    pub fn roll_webhook_secret(&self, endpoint: &str, overlap_s: i64) -> Result<String> {
        let mut state = self.double.state();
        let secret = format!("whsec_{}", state.ids.text(32));
        let until = state.now() + overlap_s;
        let endpoint = state.endpoints.get_mut(endpoint).context("no such endpoint")?;
        endpoint.roll_secret(secret.clone(), until);
        Ok(secret)
    }

    /// The events so far, oldest first.
    pub fn events(&self) -> Vec<EmittedEvent> {
        let state = self.double.state();
        let event = |(_, event): (&str, &event::Event)| EmittedEvent {
            id: event.id.clone(),
            kind: event.kind.clone(),
            created: event.created,
            pending: event.pending.len(),
            body: event.render(API_VERSION),
        };
        state.events.iter().map(event).collect()
    }

    /// Sends this event once to every endpoint that wants it and returns the statuses; `None` means no answer.
    pub async fn deliver(&self, event: &str) -> Vec<Option<u16>> {
        webhooks::deliver_now(&self.double, event).await
    }

    /// Waits until all events are delivered; fails after `within`.
    pub async fn settle_webhooks(&self, within: Duration) -> Result<()> {
        let settled = async {
            while !self.double.state().outbox.is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let settled = tokio::time::timeout(within, settled).await;
        settled.map_err(|_| anyhow!("webhooks are still being delivered after {within:?}"))
    }

    /// Emits an event of an unknown type and returns its id.
    pub fn emit_unknown(&self, kind: &str, object: Value) -> String {
        let id = self.double.state().emit_unknown(kind, object);
        self.double.wake.notify_one();
        id
    }

    /// Emits the thin event `v1.billing.meter.error_report_triggered` and returns its id.
    pub fn emit_meter_error(&self, meter: &str, code: &str, identifier: &str) -> String {
        let id = self.double.state().report_meter_error(meter, code, identifier);
        self.double.wake.notify_one();
        id
    }

    /// A customer, subscription, invoice, price, product, schedule or checkout session, as the API shows it.
    pub fn object(&self, id: &str) -> Option<Value> {
        let state = self.double.state_now();
        let session = state.sessions.get(id).map(|session| session.render(&state));
        session.or_else(|| expand::by_id(&state, id))
    }

    /// All customers that are not deleted, oldest first.
    pub fn customers(&self) -> Vec<Value> {
        let state = self.double.state();
        let living = state.customers.iter().filter(|(_, customer)| !customer.deleted);
        living.map(|(_, customer)| customer.render()).collect()
    }

    /// A customer's subscriptions, oldest first, ended ones too.
    pub fn subscriptions(&self, customer: &str) -> Vec<Value> {
        let state = self.double.state_now();
        let theirs = state
            .subscriptions
            .iter()
            .filter(|(_, subscription)| subscription.customer == customer);
        theirs.map(|(_, subscription)| subscription.render(&state)).collect()
    }

    /// A customer's invoices, oldest first.
    pub fn invoices(&self, customer: &str) -> Vec<Value> {
        let state = self.double.state_now();
        let theirs = state
            .invoices
            .iter()
            .filter(|(_, invoice)| invoice.customer == customer);
        theirs.map(|(_, invoice)| invoice.render(&state)).collect()
    }

    /// Units with a timestamp in `from..to`, even if the summaries do not show them yet.
    pub fn meter_total(&self, customer: &str, event_name: &str, from: i64, to: i64) -> i64 {
        self.double
            .state()
            .usage
            .total(&(customer.to_owned(), event_name.to_owned()), from, to)
    }

    /// The meter events that can be deleted, oldest first.
    pub fn meter_events(&self) -> Vec<MeterEvent> {
        let state = self.double.state();
        let event = |(identifier, (customer, event_name), timestamp, units): (&str, &Counted, i64, i64)| MeterEvent {
            identifier: identifier.to_owned(),
            customer: customer.clone(),
            event_name: event_name.clone(),
            timestamp,
            units,
        };
        state.usage.events().map(event).collect()
    }

    /// Deletes a meter event, without an event about it. Stripe's API cannot do that.
    pub fn delete_meter_event(&self, identifier: &str) -> Result<()> {
        let mut state = self.double.state();
        let now = state.now();
        match state.usage.delete(now, identifier) {
            true => Ok(()),
            false => bail!("there is no meter event {identifier}"),
        }
    }

    /// Deletes what a credit note put on its customer's balance, without an event about it. Stripe's API cannot do that.
    pub fn delete_credit(&self, note: &str) -> Result<()> {
        let mut state = self.double.state();
        let transaction = state
            .credit_notes
            .get(note)
            .and_then(|note| note.balance_transaction.clone());
        match transaction {
            Some(transaction) => {
                state.balance_transactions.remove(&transaction);
                Ok(())
            }
            None => bail!("there is no credit note {note} that changed a balance"),
        }
    }

    /// Deletes a line of a final invoice, without an event about it. Stripe's API cannot do that.
    pub fn delete_invoice_line(&self, invoice: &str, line: &str) -> Result<()> {
        let mut state = self.double.state();
        if state.invoice(invoice).map_err(error)?.status == invoice::Status::Draft {
            bail!("the invoice {invoice} is a draft");
        }
        let mut is_deleted = false;
        state.change_invoice(invoice, |invoice| {
            let before = invoice.lines.len();
            invoice.lines.retain(|one| one.id != line);
            is_deleted = invoice.lines.len() < before;
        });
        match is_deleted {
            true => Ok(()),
            false => bail!("the invoice {invoice} has no line {line}"),
        }
    }

    pub fn set_card(&self, customer: &str, card: Option<Card>) -> Result<()> {
        let mut state = self.double.state();
        let payment_method = state.ids.next("pm");
        let mut customer = state.living_customer(customer).map_err(error)?.clone();
        let before = customer.render();
        customer.set_card(card, payment_method);
        state.replace_customer(customer, &before);
        drop(state);
        self.double.wake.notify_one();
        Ok(())
    }

    /// Completes a checkout as if the customer had clicked *Pay* with a working card.
    pub fn complete_checkout(&self, session: &str) -> Result<()> {
        self.complete(session, None)
    }

    /// The same after the customer typed a promotion code.
    pub fn complete_checkout_with_code(&self, session: &str, code: &str) -> Result<()> {
        self.complete(session, Some(code))
    }

    fn complete(&self, session: &str, code: Option<&str>) -> Result<()> {
        let completed = checkout::complete(&mut self.double.state_now(), session, Card::Ok, code);
        self.double.wake.notify_one();
        completed.map_err(error)
    }

    /// Ends 3-D Secure for the payment of an invoice that is `requires_action`.
    pub fn confirm_payment(&self, invoice: &str, succeeds: bool) -> Result<()> {
        let mut state = self.double.state_now();
        let payment = state.invoice(invoice).map_err(error)?.payment.as_ref();
        if payment.is_none_or(|payment| payment.status != Status::RequiresAction) {
            bail!("no payment of the invoice {invoice} needs an action");
        }
        state.at_time_of_object(invoice, |state| debit::confirm(state, invoice, succeeds));
        drop(state);
        self.double.wake.notify_one();
        Ok(())
    }

    /// Pays an open invoice as if the customer had confirmed it with a working card, which is saved if the customer has none.
    pub fn pay_invoice(&self, invoice: &str) -> Result<()> {
        let mut state = self.double.state_now();
        if state.invoice(invoice).map_err(error)?.status != invoice::Status::Open {
            bail!("the invoice {invoice} is not open");
        }
        state.at_time_of_object(invoice, |state| payment::confirmed(state, invoice));
        drop(state);
        self.double.wake.notify_one();
        Ok(())
    }

    /// The customer's bank disputes the payment of a paid invoice. Returns the dispute's id.
    pub fn dispute_invoice(&self, invoice: &str) -> Result<String> {
        let opened = disputes::open(&mut self.double.state_now(), invoice);
        self.double.wake.notify_one();
        opened.map_err(error)
    }

    /// The bank decides for the operator.
    pub fn win_dispute(&self, dispute: &str) -> Result<()> {
        self.close_dispute(dispute, dispute::Status::Won)
    }

    /// The bank decides for the customer.
    pub fn lose_dispute(&self, dispute: &str) -> Result<()> {
        self.close_dispute(dispute, dispute::Status::Lost)
    }

    fn close_dispute(&self, id: &str, status: dispute::Status) -> Result<()> {
        let closed = disputes::close(&mut self.double.state_now(), id, status);
        self.double.wake.notify_one();
        closed.map_err(error)
    }
}

fn error(failure: Failure) -> anyhow::Error {
    anyhow!("{}", failure.message())
}
