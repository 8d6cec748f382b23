//! Metrics of the service.

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use lane::metrics::LaneMetrics;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use service::server::ServerMetrics;

use crate::{
    findings::metrics::FindingMetrics, reports::ReportMetrics, runs::SettleMetrics, stripe::StripeMetrics,
    tasks::metrics::TaskMetrics,
};

/// Cheap to clone; all clones count together.
#[derive(Clone, Default)]
pub struct Metrics {
    answers: Family<ResponseLabels, Counter>,
    announced: Counter,
    not_announced: Counter,
    requests_shed: Counter,
    pub corrections_waiting: Gauge,
    pub spend_caps_waiting: Gauge,
    pub lanes: LaneMetrics,
    pub reports: ReportMetrics,
    pub settle: SettleMetrics,
    pub tasks: TaskMetrics,
    pub findings: FindingMetrics,
    pub stripe: StripeMetrics,
    /// Of the public port.
    pub server: ServerMetrics,
    webhooks: Family<WebhookLabels, Counter>,
    duplicates: Counter,
    duplicate_units: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WebhookLabels {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResponseLabels {
    api: &'static str,
    status: u16,
}

impl Metrics {
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("billing");
        registry.register("http_answers", "HTTP responses by API and status", self.answers.clone());
        registry.register(
            "requests_shed",
            "Requests of the public API that were refused because too many were in progress",
            self.requests_shed.clone(),
        );
        registry.register("announcements", "Changes announced over NATS", self.announced.clone());
        registry.register(
            "announcements_failed",
            "Changes that could not be announced; gateways find them within 60 s",
            self.not_announced.clone(),
        );
        registry.register(
            "webhooks",
            "Stripe's events: received (new and stored), refused, unreadable (signed, kept), done, parked (given up)",
            self.webhooks.clone(),
        );
        registry.register(
            "corrections_waiting",
            "Corrections whose event is not yet confirmed in the stream",
            self.corrections_waiting.clone(),
        );
        registry.register(
            "spend_caps_waiting",
            "Spend caps that are not in force yet, because some gateway does not know them",
            self.spend_caps_waiting.clone(),
        );
        registry.register(
            "duplicates",
            "Dropped duplicates whose units were returned",
            self.duplicates.clone(),
        );
        registry.register(
            "duplicate_units",
            "Units of dropped duplicates that were returned to their pools",
            self.duplicate_units.clone(),
        );
        self.server.register(registry);
        self.lanes.register(registry.sub_registry_with_prefix("lane"));
        self.reports.register(registry);
        self.settle.register(registry);
        self.stripe.register(registry);
        self.tasks.register(registry);
        self.findings.register(registry);
    }

    pub fn request_shed(&self) {
        self.requests_shed.inc();
    }

    pub fn announced(&self, count: u64) {
        self.announced.inc_by(count);
    }

    pub fn duplicates_returned(&self, duplicates: u64, units: i64) {
        self.duplicates.inc_by(duplicates);
        self.duplicate_units.inc_by(units.unsigned_abs());
    }

    pub fn webhook_received(&self) {
        self.webhook("received");
    }

    pub fn webhook_refused(&self) {
        self.webhook("refused");
    }

    pub fn webhook_unreadable(&self) {
        self.webhook("unreadable");
    }

    pub fn webhook_done(&self) {
        self.webhook("done");
    }

    pub fn webhook_parked(&self) {
        self.webhook("parked");
    }

    fn webhook(&self, outcome: &'static str) {
        self.webhooks.get_or_create(&WebhookLabels { outcome }).inc();
    }

    pub fn not_announced(&self, count: u64) {
        self.not_announced.inc_by(count);
    }
}

/// Middleware that counts the responses of one API.
pub async fn count(State((metrics, api)): State<(Metrics, &'static str)>, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let status = response.status().as_u16();
    metrics.answers.get_or_create(&ResponseLabels { api, status }).inc();
    response
}
