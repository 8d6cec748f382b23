//! The control of a double over HTTP, for one that runs as a program: JSON in, JSON out, no key.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::control::Control;
use crate::options::Card;
use crate::server::double::Double;
use crate::server::faults::FaultRule;

type Shared = State<Arc<Double>>;

type ControlResponse = Result<Json<Value>, (StatusCode, Json<Value>)>;

pub(crate) fn router() -> Router<Arc<Double>> {
    Router::new()
        .route("/clock", get(clock).post(advance))
        .route("/requests", get(requests))
        .route("/violations", get(violations))
        .route("/events", get(events))
        .route("/events/{id}/deliver", post(deliver))
        .route("/customers", get(customers))
        .route("/customers/{id}/card", post(card))
        .route("/checkout/{id}/complete", post(complete))
        .route("/invoices/{id}/pay", post(pay))
        .route("/invoices/{id}/lines/{line}", delete(delete_line))
        .route("/meter_events", get(meter_events))
        .route("/meter_events/{identifier}", delete(delete_meter_event))
        .route("/meter_total", get(meter_total))
        .route("/faults", post(add_fault).delete(clear_faults))
        .route("/webhooks", post(add_webhook))
}

fn control(double: &Arc<Double>) -> Control {
    Control { double: double.clone() }
}

async fn clock(State(double): Shared) -> Json<Value> {
    Json(json!({ "now": control(&double).now() }))
}

#[derive(Deserialize)]
struct Advance {
    to: Option<i64>,
    by: Option<i64>,
}

async fn advance(State(double): Shared, Json(advance): Json<Advance>) -> Json<Value> {
    let control = control(&double);
    control.advance_to(advance.to.unwrap_or_else(|| control.now() + advance.by.unwrap_or(0)));
    Json(json!({ "now": control.now() }))
}

async fn requests(State(double): Shared) -> Json<Value> {
    Json(json!(control(&double).requests()))
}

async fn violations(State(double): Shared) -> Json<Value> {
    Json(json!(control(&double).violations()))
}

async fn events(State(double): Shared) -> Json<Value> {
    Json(json!(control(&double).events()))
}

async fn deliver(State(double): Shared, Path(id): Path<String>) -> Json<Value> {
    Json(json!({ "statuses": control(&double).deliver(&id).await }))
}

async fn customers(State(double): Shared) -> Json<Value> {
    Json(json!(control(&double).customers()))
}

#[derive(Deserialize)]
struct CardChange {
    /// `ok`, `declines`, `needs_action`, `bank_debit`, `bank_debit_fails` or none
    card: Option<String>,
}

async fn card(State(double): Shared, Path(id): Path<String>, Json(change): Json<CardChange>) -> ControlResponse {
    let card = match change.card.as_deref() {
        None => None,
        Some("ok") => Some(Card::Ok),
        Some("declines") => Some(Card::Declines),
        Some("needs_action") => Some(Card::NeedsAction),
        Some("bank_debit") => Some(Card::BankDebit),
        Some("bank_debit_fails") => Some(Card::BankDebitFails),
        Some(other) => {
            let known = "ok, declines, needs_action, bank_debit or bank_debit_fails";
            return Err(bad(&format!("unknown card {other}: use {known}")));
        }
    };
    done(control(&double).set_card(&id, card))
}

async fn complete(State(double): Shared, Path(id): Path<String>) -> ControlResponse {
    done(control(&double).complete_checkout(&id))
}

async fn pay(State(double): Shared, Path(id): Path<String>) -> ControlResponse {
    done(control(&double).pay_invoice(&id))
}

async fn delete_line(State(double): Shared, Path((id, line)): Path<(String, String)>) -> ControlResponse {
    done(control(&double).delete_invoice_line(&id, &line))
}

async fn meter_events(State(double): Shared) -> Json<Value> {
    Json(json!(control(&double).meter_events()))
}

async fn delete_meter_event(State(double): Shared, Path(identifier): Path<String>) -> ControlResponse {
    done(control(&double).delete_meter_event(&identifier))
}

#[derive(Deserialize)]
struct Span {
    customer: String,
    event_name: String,
    #[serde(default)]
    from: i64,
    to: Option<i64>,
}

async fn meter_total(State(double): Shared, Query(span): Query<Span>) -> Json<Value> {
    let to = span.to.unwrap_or(i64::MAX);
    Json(json!({ "total": control(&double).meter_total(&span.customer, &span.event_name, span.from, to) }))
}

async fn add_fault(State(double): Shared, Json(rule): Json<FaultRule>) -> Json<Value> {
    control(&double).add_fault(rule);
    Json(json!({ "ok": true }))
}

async fn clear_faults(State(double): Shared) -> Json<Value> {
    control(&double).clear_faults();
    Json(json!({ "ok": true }))
}

#[derive(Deserialize)]
struct Webhook {
    url: String,
}

async fn add_webhook(State(double): Shared, Json(webhook): Json<Webhook>) -> ControlResponse {
    match control(&double).add_webhook(&webhook.url) {
        Ok(id) => Ok(Json(json!({ "id": id, "secret": double.webhook_secret }))),
        Err(error) => Err(bad(&error.to_string())),
    }
}

fn done(result: anyhow::Result<()>) -> ControlResponse {
    result
        .map(|()| Json(json!({ "ok": true })))
        .map_err(|error| bad(&error.to_string()))
}

fn bad(what: &str) -> (StatusCode, Json<Value>) {
    (StatusCode::BAD_REQUEST, Json(json!({ "error": what })))
}
