//! The webhook endpoint in Stripe.

use serde::Deserialize;
use serde_json::json;
use stripe_client_core::VERSION;

use super::row::Row;
use crate::{
    error::Error,
    stripe::{Raw, StripeError, object::List},
    subscriptions::billing::Billing,
};

/// The types of events that have an effect here, except the thin one.
const NEEDED: [&str; 32] = [
    "charge.dispute.closed",
    "charge.dispute.created",
    "charge.dispute.updated",
    "checkout.session.async_payment_succeeded",
    "checkout.session.completed",
    "checkout.session.expired",
    "credit_note.created",
    "credit_note.updated",
    "credit_note.voided",
    "customer.created",
    "customer.deleted",
    "customer.subscription.created",
    "customer.subscription.deleted",
    "customer.subscription.paused",
    "customer.subscription.pending_update_applied",
    "customer.subscription.pending_update_expired",
    "customer.subscription.resumed",
    "customer.subscription.updated",
    "customer.updated",
    "invoice.created",
    "invoice.finalized",
    "invoice.marked_uncollectible",
    "invoice.paid",
    "invoice.payment_action_required",
    "invoice.payment_failed",
    "invoice.updated",
    "invoice.voided",
    "refund.created",
    "refund.failed",
    "refund.updated",
    "subscription_schedule.released",
    "subscription_schedule.updated",
];

#[derive(Clone, Debug, Deserialize)]
struct Endpoint {
    id: String,
    url: String,
    /// `enabled` or `disabled`.
    status: String,
    enabled_events: Vec<String>,
    /// `None`: the version of the Stripe account.
    api_version: Option<String>,
}

pub(super) async fn look(billing: &Billing) -> Result<Vec<Row>, Error> {
    let url = format!(
        "{}/billing/webhooks/stripe",
        billing.settings.billing_public_url.trim_end_matches('/')
    );
    let list = Raw::get("/webhook_endpoints", json!({ "limit": 100 }));
    match billing.stripe()?.read::<List<Endpoint>>(&list).await {
        Ok(endpoints) => Ok(rules(&endpoints.data, &url)),
        Err(StripeError::Unauthorized(_)) => Ok(vec![Row::unchecked(
            "the key has no permission to read Webhook Endpoints",
            format!("give it this permission, or check in Stripe's dashboard that events are sent to {url}"),
        )]),
        Err(error) => Err(error.into()),
    }
}

fn rules(endpoints: &[Endpoint], url: &str) -> Vec<Row> {
    let mut rows = vec![Row::unchecked(
        "the thin event v1.billing.meter.error_report_triggered, and how long an invoice stays a draft",
        format!(
            "check in Stripe's dashboard that an event destination sends the event to {url}, and that invoices stay drafts for an \
             hour or more"
        ),
    )];
    let ours: Vec<_> = endpoints.iter().filter(|endpoint| endpoint.url == url).collect();
    let Some(endpoint) = ours.iter().find(|one| one.status == "enabled").or(ours.first()) else {
        rows.push(Row::error(
            format!("no webhook endpoint in Stripe has the URL {url}"),
            "make one in Stripe, or correct BILLING_PUBLIC_URL",
        ));
        return rows;
    };
    let id = &endpoint.id;
    let before = rows.len();
    if ours.len() > 1 {
        rows.push(Row::warning(
            format!(
                "{} webhook endpoints have the URL {url}: each event arrives several times",
                ours.len()
            ),
            "delete all but one",
        ));
    }
    if endpoint.status != "enabled" {
        rows.push(Row::error(
            format!("the webhook endpoint {id} is {}", endpoint.status),
            "enable it in Stripe",
        ));
    }
    let sends = |needed: &&&str| {
        endpoint
            .enabled_events
            .iter()
            .any(|sent| sent == "*" || sent == **needed)
    };
    let missing: Vec<&str> = NEEDED.iter().filter(|needed| !sends(needed)).copied().collect();
    if !missing.is_empty() {
        rows.push(Row::error(
            format!(
                "the webhook endpoint {id} does not send all events: {}",
                missing.join(", ")
            ),
            "select these events for the endpoint in Stripe",
        ));
    }
    if endpoint.api_version.as_deref() != Some(VERSION.as_str()) {
        let version = endpoint.api_version.as_deref().unwrap_or("the account's default");
        rows.push(Row::warning(
            format!(
                "the webhook endpoint {id} has the API version {version}, and this service {}",
                VERSION.as_str()
            ),
            "make a new endpoint with this version; Stripe cannot change the version of an endpoint",
        ));
    }
    if rows.len() == before {
        rows.push(Row::ok(format!("the webhook endpoint {id} sends all events to {url}")));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::{super::row::Level, *};
    use crate::webhook::effect;

    fn endpoint() -> Endpoint {
        Endpoint {
            id: "we_1".to_owned(),
            url: "https://b.example/billing/webhooks/stripe".to_owned(),
            status: "enabled".to_owned(),
            enabled_events: NEEDED.map(str::to_owned).to_vec(),
            api_version: Some(VERSION.as_str().to_owned()),
        }
    }

    fn levels(endpoints: &[Endpoint]) -> Vec<Level> {
        let rows = rules(endpoints, &endpoint().url);
        rows[1..].iter().map(|row| row.level).collect()
    }

    #[test]
    fn every_event_that_is_needed_has_an_effect() {
        assert!(NEEDED.is_sorted());
        assert!(NEEDED.iter().all(|kind| effect::is_ours(kind)));
    }

    #[test]
    fn each_mistake_in_the_endpoint_is_a_row() {
        let all = Endpoint {
            enabled_events: vec!["*".to_owned()],
            ..endpoint()
        };
        let disabled = Endpoint {
            status: "disabled".to_owned(),
            ..endpoint()
        };
        let older = Endpoint {
            api_version: None,
            ..endpoint()
        };
        let mut fewer = endpoint();
        fewer.enabled_events.retain(|kind| kind != "invoice.paid");
        let elsewhere = Endpoint {
            url: "https://other.example/".to_owned(),
            ..endpoint()
        };
        for (endpoints, expected) in [
            (vec![endpoint()], vec![Level::Ok]),
            (vec![elsewhere.clone(), all], vec![Level::Ok]),
            (vec![elsewhere], vec![Level::Error]),
            (vec![], vec![Level::Error]),
            (vec![disabled.clone()], vec![Level::Error]),
            (vec![disabled, endpoint()], vec![Level::Warning]),
            (vec![older], vec![Level::Warning]),
            (vec![fewer.clone()], vec![Level::Error]),
        ] {
            assert_eq!(levels(&endpoints), expected, "{endpoints:?}");
        }
        assert!(rules(&[fewer], &endpoint().url)[1].what.ends_with(": invoice.paid"));
    }
}
