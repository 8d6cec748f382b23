//! Stripe, doubled: the billing part of its API, stateful, strict about what it is sent and honest about what it sends, with faults
//! and a clock that a test turns. In process, or as a program: `devstack stripe`.
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
//! | what a test can do | [`control`], and over HTTP `control_http` |
//! | one call, from its head to its answer | `api`; before it: `auth`, `edge`, `faults`, `idempotency` |
//! | what Stripe takes and gives | `schema`, `form`, `spec/` |
//! | all paths | `routes` |
//! | one kind of object | the file of its name |
//! | what time brings | `advance`, `clock` |
//! | what makes invoices, and what paying them means | `billing`, `change`, `payment`, `cancellation` |
//! | events and their delivery | `events`, `webhooks`, `signature`, `older` |
//! | pages for people | `pages` and the `*_page`s |
//!
//! # Invariants
//! - Every call is checked against Stripe's schema, every object that leaves here too; what is wrong is in `violations()`.
//! - What Stripe would take and the double does not do is refused, and is a violation: nothing is ignored.
//! - A call, a turn of the clock and a click happen at once or not at all.
//!
//! # Known to differ from Stripe
//! No taxes, discounts, coupons, credit notes, invoices by mail (`send_invoice`), test clocks, or Connect; amounts below the minimum charge
//! are charged; a `cancel_at` in mid-period credits nothing.

// `json!` recurses once per token, and Stripe's objects are long.
#![recursion_limit = "512"]

pub mod control;
pub mod edge;
pub mod faults;
pub mod options;

mod advance;
mod api;
mod auth;
mod billing;
mod calendar;
mod cancellation;
mod change;
mod checkout;
mod clock;
mod control_http;
mod customers;
mod endpoints;
mod events;
mod expand;
mod failure;
mod form;
mod html;
mod idempotency;
mod ids;
mod invoice;
mod invoice_items;
mod invoice_page;
mod invoices;
mod items;
mod meter_events;
mod meters;
mod money;
mod older;
mod overview_page;
mod pages;
mod payment;
mod portal;
mod portal_page;
mod preview;
mod prices;
mod products;
mod routes;
mod schedule;
mod schedules;
mod schema;
mod server;
mod signature;
mod state;
mod subscription;
mod subscription_items;
mod subscriptions;
mod table;
mod usage;
mod webhooks;

use std::sync::Arc;

use anyhow::{Context, Result};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

pub use control::{Control, EmittedEvent};
pub use edge::RecordedRequest;
pub use faults::{FaultKind, FaultRule, Moment};
pub use options::{AfterDunning, BillingSettings, Card, StripeDoubleOptions, WebhookBehavior};
pub use schema::API_VERSION;

use clock::Clock;
use edge::Edge;
use ids::Ids;
use server::Double;
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
            .context("binding the port of Stripe's double")?;
        let url = format!("http://{address}");
        let mut ids = Ids::new(rand::random()); // keys differ from run to run, whatever the seed
        let api_key = options.api_key.unwrap_or_else(|| format!("sk_test_{}", ids.text(32)));
        let webhook_secret = options
            .webhook_secret
            .unwrap_or_else(|| format!("whsec_{}", ids.text(32)));
        let clock = Clock::starting_at(options.start_at);
        let mut state = State::new(url.clone(), clock, options.seed, options.billing);
        state.outbox.behavior = options.webhooks;
        let edge = Edge::new(options.latency, options.calls_per_second, options.requests_kept);
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

    /// `http://127.0.0.1:<port>`; the API is below `/v1`, an overview for people at `/`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// `sk_test_…`
    pub fn api_key(&self) -> &str {
        &self.control.double.api_key
    }

    /// What the endpoints of [`StripeDoubleOptions::webhook_url`] and [`Control::add_webhook`] are signed with: known before there
    /// is one, so that a receiver can start with it.
    pub fn webhook_secret(&self) -> &str {
        &self.control.double.webhook_secret
    }

    pub fn control(&self) -> Control {
        self.control.clone()
    }
}
