//! `/billing/create-checkout-session`, `/billing/subscriptions`, `/billing/portal-session`.

use axum::{Json, extract::State, http::StatusCode};
use problem::shown;
use schema::Interval;
use serde::{Deserialize, Serialize};
use stripe_billing::billing_portal_session::CreateBillingPortalSession;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{PublicApi, authenticate::Caller, tier::TierQuery};
use crate::{
    accounts::customers,
    error::Error,
    http::body::Body,
    stripe::Write,
    subscriptions::{
        checkout::{self, ReturnUrls},
        payment_form, portal,
    },
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewCheckout {
    /// A plan's id; it can also be in the query string.
    tier: Option<String>,
    /// How often it is paid for.
    #[serde(default)]
    interval: Interval,
    /// Where the browser goes after the payment. `{CHECKOUT_SESSION_ID}` is replaced by the session id.
    success_url: Option<String>,
    cancel_url: Option<String>,
}

#[derive(Serialize)]
pub(super) struct Opened {
    checkout_url: String,
    session_id: String,
    #[serde(with = "time::serde::rfc3339")]
    expires_at: OffsetDateTime,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewSubscription {
    tier: Option<String>,
    /// How often it is paid for.
    #[serde(default)]
    interval: Interval,
}

#[derive(Serialize)]
pub(super) struct Begun {
    subscription_id: String,
    status: String,
    /// The secret that a payment form confirms; null if nothing must be paid.
    client_secret: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewPortal {
    return_url: Option<String>,
}

#[derive(Deserialize, Serialize)]
pub(super) struct Portal {
    #[serde(rename(serialize = "portal_url"))]
    url: String,
}

pub(super) async fn create(
    State(api): State<PublicApi>,
    Caller(account): Caller,
    query: TierQuery,
    Body(new): Body<NewCheckout>,
) -> Result<(StatusCode, Json<Opened>), Error> {
    let tier = query.or(new.tier)?;
    let base = api.billing.settings.billing_public_url.trim_end_matches('/');
    let urls = ReturnUrls {
        success: url("success_url", new.success_url)?
            .unwrap_or_else(|| format!("{base}/billing/success?session_id={{CHECKOUT_SESSION_ID}}")),
        cancel: url("cancel_url", new.cancel_url)?.unwrap_or_else(|| format!("{base}/billing/cancelled")),
    };
    let billing = api.billing.clone();
    let checkout = async move { checkout::checkout(&billing, account, &tier, new.interval, urls).await };
    let checkout = api.complete(checkout).await?;
    let opened = Opened {
        checkout_url: checkout.url,
        session_id: checkout.session_id,
        expires_at: checkout.expires_at,
    };
    Ok((StatusCode::CREATED, Json(opened)))
}

pub(super) async fn subscribe(
    State(api): State<PublicApi>,
    Caller(account): Caller,
    query: TierQuery,
    Body(new): Body<NewSubscription>,
) -> Result<(StatusCode, Json<Begun>), Error> {
    let tier = query.or(new.tier)?;
    let billing = api.billing.clone();
    let pending = async move { payment_form::subscribe(&billing, account, &tier, new.interval).await };
    let pending = api.complete(pending).await?;
    let begun = Begun {
        subscription_id: pending.subscription_id,
        status: pending.status,
        client_secret: pending.client_secret,
    };
    Ok((StatusCode::CREATED, Json(begun)))
}

/// Opens Stripe's customer portal: cards, invoices and the subscription.
pub(super) async fn portal(
    State(api): State<PublicApi>,
    Caller(account): Caller,
    Body(new): Body<NewPortal>,
) -> Result<(StatusCode, Json<Portal>), Error> {
    let base = api.billing.settings.billing_public_url.trim_end_matches('/');
    let back = url("return_url", new.return_url)?.unwrap_or_else(|| format!("{base}/billing/returned"));
    let billing = api.billing.of(account);
    let _slot = billing.slot(account).await?;
    let customer = customers::ensure(&billing, account).await?;
    let mut request = CreateBillingPortalSession::new().customer(customer).return_url(back);
    // Without ours, Stripe uses the one of its dashboard.
    if let Some(ours) = portal::configuration(&billing.admin.db, billing.stripe()?.is_live()).await? {
        request = request.configuration(ours);
    }
    let key = format!("portal-{}", Uuid::now_v7());
    let portal: Portal = billing.stripe()?.write(&request, Write::Keyed(&key)).await?;
    Ok((StatusCode::CREATED, Json(portal)))
}

/// Checks a URL to which the browser is redirected.
fn url(field: &'static str, given: Option<String>) -> Result<Option<String>, Error> {
    let Some(url) = given else {
        return Ok(None);
    };
    // The braces of the placeholder are not valid in a URL.
    let parsed = url
        .replace("{CHECKOUT_SESSION_ID}", "x")
        .parse::<axum::http::Uri>()
        .ok();
    match parsed {
        Some(parsed) if matches!(parsed.scheme_str(), Some("http" | "https")) && url.len() <= 2_000 => Ok(Some(url)),
        _ => Err(Error::BadValue {
            field,
            rule: format!(
                "must be an http:// or https:// URL of at most 2,000 characters, got \"{}\"",
                shown(&url)
            ),
        }),
    }
}
