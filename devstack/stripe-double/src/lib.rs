//! A fake Stripe billing API with fault injection and a controllable clock. It keeps state, and it checks every request and every
//! object against Stripe's schema. It runs inside a test, or as a program: `devstack stripe`.
//!
//! ```no_run
//! # async fn test() -> anyhow::Result<()> {
//! use stripe_double::{StripeDouble, StripeDoubleOptions};
//! let stripe = StripeDouble::start(StripeDoubleOptions::default()).await?;
//! let (base, key) = (format!("{}/v1", stripe.url()), stripe.api_key());
//! // … the code under test calls `base` with `key` …
//! stripe.control().advance_by(31 * 86_400);
//! assert!(stripe.control().violations().is_empty());
//! # Ok(())
//! # }
//! ```
//!
//! # Code map
//! | to find | open |
//! |---|---|
//! | what a test can do | `control`, and over HTTP `control/over_http` |
//! | one call, from its head to its answer | `server/request`; before it: `server/auth`, `edge`, `faults`, `idempotency` |
//! | what Stripe accepts and answers | `spec`, `form`, and the folder `spec/` |
//! | all paths | `api/routes` |
//! | the calls for one kind of object | `api/<objects>` |
//! | the data of one kind of object | `objects/<object>`; rendering that needs other objects: `state/<objects>` |
//! | what happens as time passes | `billing/advance`, `clock` |
//! | how invoices are made and paid | `billing` |
//! | events and their delivery | `objects/event`, `state/events`, `outbox`, `server/webhooks` |
//! | pages for people | `pages` |
//!
//! # Invariants
//! - Every call and every object that the double sends is checked against Stripe's schema. Mistakes are in `violations()`.
//! - A valid request that the double does not support is refused and is a violation. Nothing is ignored.
//! - A call, a clock advance and a click each happen completely or not at all.
//!
//! # Known to differ from Stripe
//! No refunds, disputes, invoices by mail (`send_invoice`) or Connect; coupons for whole subscriptions only; one tax rate; a checkout is
//! paid at once, whatever the card; `payment_intent.*` events only of payments that do not succeed at once; a `cancel_at` in mid-period
//! credits nothing. What Stripe does is not certain where a comment says so; strict mode lists such calls of the code under test.

// `json!` recurses once per token, and Stripe's objects are long.
#![recursion_limit = "512"]

mod api;
mod billing;
mod calendar;
mod clock;
mod control;
mod failure;
mod form;
mod ids;
mod list;
mod money;
mod objects;
mod options;
mod outbox;
mod pages;
mod server;
mod signature;
mod spec;
mod state;
mod table;

use std::sync::Arc;

use anyhow::{Context, Result};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

pub use control::{Control, EmittedEvent, MeterEvent};
pub use options::{AfterDunning, BillingSettings, Card, StripeDoubleOptions, WebhookBehavior};
pub use server::edge::RecordedRequest;
pub use server::faults::{FaultKind, FaultRule, Moment, RefusalKind};
pub use spec::API_VERSION;

use clock::Clock;
use ids::Ids;
use server::double::Double;
use server::edge::Edge;
use server::webhooks;
use state::State;

/// Runs until it is dropped.
pub struct StripeDouble {
    url: String,
    control: Control,
    _tasks: [AbortOnDropHandle<()>; 3],
}

impl StripeDouble {
    pub async fn start(options: StripeDoubleOptions) -> Result<Self> {
        let (listener, address) = server::listen(options.port)
            .await
            .context("binding the port of the fake Stripe")?;
        let url = format!("http://{address}");
        let mut ids = Ids::new(rand::random()); // keys differ between runs, even with the same seed
        let api_key = options.api_key.unwrap_or_else(|| format!("sk_test_{}", ids.text(32)));
        let webhook_secret = options
            .webhook_secret
            .unwrap_or_else(|| format!("whsec_{}", ids.text(32)));
        let clock = Clock::starting_at(options.start_at);
        let mut state = State::new(url.clone(), clock, options.seed, options.billing);
        state.outbox.behavior = options.webhooks;
        state.configure_portal(state.settings.portal_is_configured);
        state.is_strict = options.is_strict;
        let mut edge = Edge::new(options.latency, options.calls_per_second, options.requests_kept);
        edge.endpoint_calls_per_second = options.endpoint_calls_per_second;
        let double = Arc::new(Double::new(state, edge, api_key, webhook_secret));
        let control = Control { double: double.clone() };
        if let Some(url) = &options.webhook_url {
            control.add_webhook(url)?;
        }
        let tracker = TaskTracker::new();
        let tasks = [
            tracker.spawn(server::serve(listener, double.clone())),
            tracker.spawn(webhooks::deliver_all(double.clone())),
            tracker.spawn(server::tick(double)),
        ];
        Ok(Self {
            url,
            control,
            _tasks: tasks.map(AbortOnDropHandle::new),
        })
    }

    /// `http://127.0.0.1:<port>`. The API is below `/v1`, and `/` is an overview for people.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// `sk_test_…`
    pub fn api_key(&self) -> &str {
        &self.control.double.api_key
    }

    /// The signing secret of the endpoints of [`StripeDoubleOptions::webhook_url`] and [`Control::add_webhook`]. It is known before
    /// there is an endpoint, so that a receiver can start with it.
    pub fn webhook_secret(&self) -> &str {
        &self.control.double.webhook_secret
    }

    pub fn control(&self) -> Control {
        self.control.clone()
    }
}
