//! The public API: `/billing/*`. The router is its table of contents.
//!
//! The caller sends an API key of the account; for anything but a GET, one with the scope `billing`. Prices, pages and Stripe's
//! webhooks need no key; prices with a key say what its account pays in. The requests in flight of a key are bounded, so that one
//! customer does not delay the others.

mod authenticate;
mod checkout;
mod invoices;
mod pages;
mod plan;
mod share;
mod spend_cap;
mod strict;
mod subscription;
mod tier;
mod usage;

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, State},
    middleware,
    routing::{get, post},
};
use problem::{Kind, Problem};
use service::Lifecycle;
use tokio::sync::Notify;

use self::{authenticate::Caller, share::Share};
use crate::{
    accounts::plans::{self, PriceList},
    error::Error,
    http::{
        body,
        webhook::{self, WebhookReceiver},
    },
    metrics::{self, Metrics},
    subscriptions::{billing::Billing, currency},
};

#[derive(Clone)]
pub struct PublicApi {
    pub billing: Billing,
    /// Receives Stripe's events, with database connections that requests cannot take.
    pub events: Billing,
    pub metrics: Metrics,
    /// Notified when a webhook event was stored.
    pub inbox: Arc<Notify>,
    /// Waits for running changes at shutdown.
    pub life: Lifecycle,
}

impl PublicApi {
    /// Completes a change even if the caller disconnects. Otherwise half of a change would remain.
    async fn complete<T: Send + 'static>(
        &self,
        change: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        match self.life.spawn_apart(change).await {
            Ok(done) => done,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }
}

pub fn router(api: PublicApi) -> Router {
    let metrics = api.metrics.clone();
    let bounds = (Share::default(), api.metrics.clone());
    let receiver = WebhookReceiver {
        billing: api.events.clone(),
        metrics: api.metrics.clone(),
        inbox: api.inbox.clone(),
    };
    Router::new()
        .route("/billing/plans", get(list_plans))
        .route("/billing/create-checkout-session", post(checkout::create))
        .route("/billing/subscriptions", post(checkout::subscribe))
        .route("/billing/portal-session", post(checkout::portal))
        .route("/billing/subscription", get(subscription::show))
        .route("/billing/upgrade", post(plan::change))
        .route("/billing/cancel", post(plan::cancel))
        .route("/billing/resume", post(plan::resume))
        .route("/billing/usage", get(usage::show))
        .route(
            "/billing/spend-cap",
            get(spend_cap::show).put(spend_cap::set).delete(spend_cap::remove),
        )
        .route("/billing/invoices", get(invoices::list))
        .route("/billing/invoices/{id}", get(invoices::show))
        .route("/billing/success", get(pages::success))
        .route("/billing/cancelled", get(pages::cancelled))
        .route("/billing/returned", get(pages::returned))
        .layer(DefaultBodyLimit::max(body::BYTES_MAX))
        .layer(middleware::from_fn(strict::strict))
        .layer(middleware::from_fn_with_state(bounds, share::bound))
        .route(
            "/billing/webhooks/stripe",
            post(webhook::receive)
                .layer(DefaultBodyLimit::max(webhook::BODY_BYTES_MAX))
                .with_state(receiver),
        )
        .fallback(async || Problem::of(Kind::UnknownRoute))
        .method_not_allowed_fallback(async || Problem::of(Kind::MethodNotAllowed))
        .layer(middleware::from_fn_with_state((metrics, "public"), metrics::count))
        .with_state(api)
}

async fn list_plans(State(api): State<PublicApi>, caller: Option<Caller>) -> Result<Json<PriceList>, Error> {
    let admin = &api.billing.admin;
    let currency = match caller {
        Some(Caller(account)) => currency::bound(&admin.db, account).await?,
        None => None,
    };
    Ok(Json(plans::listed(&admin.catalogue, currency)))
}
