//! `POST /billing/webhooks/stripe`: stores each signed event, then responds 200. The event is applied later, because Stripe waits
//! for the response.

pub mod signature;

use std::sync::Arc;

use axum::{
    Json,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::HeaderMap,
};
use schema::{clock, period::instant};
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::sync::Notify;
use tracing::{error, warn};

use crate::{
    error::Error,
    http::body::refusal,
    metrics::Metrics,
    subscriptions::billing::Billing,
    webhook::{envelope::Envelope, inbox},
};

/// The largest invoices have a few hundred kilobytes.
pub const BODY_BYTES_MAX: usize = 1024 * 1024;

/// What the receiver needs. Cheap to clone.
#[derive(Clone)]
pub struct WebhookReceiver {
    pub billing: Billing,
    pub metrics: Metrics,
    /// Wakes the worker that applies stored events.
    pub inbox: Arc<Notify>,
}

/// The body of the response: `{"status": "success"}`. The event is stored, now or by an earlier delivery.
#[derive(Serialize)]
pub struct Stored {
    status: &'static str,
}

impl Default for Stored {
    fn default() -> Self {
        Self { status: "success" }
    }
}

pub async fn receive(
    State(receiver): State<WebhookReceiver>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Stored>, Error> {
    let body = body.map_err(|rejection| refusal(rejection, BODY_BYTES_MAX))?;
    let secrets = &receiver.billing.settings.stripe_webhook_secrets;
    if secrets.is_empty() {
        return Err(Error::WebhooksClosed);
    }
    let header = headers
        .get("stripe-signature")
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    // The machine's clock, not the billing clock: the signature's age is real time.
    if let Err(refusal) = signature::verify(header, &body, secrets, clock::now_s()) {
        receiver.metrics.webhook_refused();
        warn!("refused a webhook: {refusal}");
        return Err(Error::Webhook(match refusal {
            signature::SignatureError::Unreadable => "the Stripe-Signature header is missing or malformed",
            signature::SignatureError::Mismatch => "the signature does not match",
            signature::SignatureError::Stale => "the signature is more than five minutes old or ahead of our clock",
        }));
    }
    let envelope = match Envelope::parse(&body) {
        Ok(envelope) => envelope,
        Err(why) => {
            // It is signed by Stripe, so store the unreadable event instead of losing it.
            let id = format!("sha256:{}", hex::encode(Sha256::digest(&body)));
            inbox::store_unreadable(&receiver.billing.admin.db, &id, &body, &why).await?;
            receiver.metrics.webhook_unreadable();
            error!(
                event.id = id,
                "cannot read a signed webhook event; it is stored for an operator: {why}"
            );
            return Ok(Json(Stored::default()));
        }
    };
    let is_live = receiver
        .billing
        .stripe()
        .map(crate::stripe::Stripe::is_live)
        .unwrap_or(envelope.livemode);
    if envelope.livemode != is_live {
        receiver.metrics.webhook_refused();
        warn!(
            event.id = envelope.id,
            livemode = envelope.livemode,
            "refused a webhook event of the other Stripe mode"
        );
        return Err(Error::Webhook(
            "the event and STRIPE_SECRET_KEY belong to different Stripe modes (live and test)",
        ));
    }
    if let Some(account) = &envelope.account {
        receiver.metrics.webhook_refused();
        warn!(
            event.id = envelope.id,
            account, "refused a webhook event of another Stripe account"
        );
        return Err(Error::Webhook("the event belongs to another Stripe account"));
    }
    let is_new = inbox::store(&receiver.billing.admin.db, &envelope, &body, instant(clock::now_s())).await?;
    if is_new {
        receiver.metrics.webhook_received();
        receiver.inbox.notify_one();
    }
    Ok(Json(Stored::default()))
}
