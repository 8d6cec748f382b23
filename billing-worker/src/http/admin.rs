//! The admin API: `/admin/*` on the admin port, protected by a token. The router is its table of contents.

mod accounts;
mod audit;
mod authorize;
mod corrections;
mod extract;
mod keys;
mod notices;
mod reports;
mod runs;
mod spend_cap;

use std::sync::{Arc, OnceLock};

use axum::{
    Json, Router,
    extract::DefaultBodyLimit,
    middleware,
    routing::{delete, get, post, put},
};
use problem::{Kind, Problem};

use crate::{
    accounts::plans::{self, PlansAndVersions},
    administration::Administration,
    error::Error,
    http::body,
    metrics::{self, Metrics},
    notices::settings::Policy,
    subscriptions::billing::Billing,
};

#[derive(Clone)]
pub struct AdminApi {
    /// `None`: the API is disabled.
    pub token: Option<Arc<str>>,
    /// Set when the service has started. The port opens earlier, for `/readyz`.
    pub billing: Arc<OnceLock<Billing>>,
    pub metrics: Metrics,
    /// Which addresses notices may be sent to.
    pub notice_policy: Policy,
}

pub fn router(api: AdminApi) -> Router {
    let routes = Router::new()
        .route("/accounts", post(accounts::create).get(accounts::list))
        .route("/accounts/{account}", get(accounts::show))
        .route("/accounts/{account}/suspend", post(accounts::suspend))
        .route("/accounts/{account}/resume", post(accounts::resume))
        .route("/accounts/{account}/link-stripe", post(accounts::link_stripe))
        .route("/accounts/{account}/plan", put(accounts::assign_plan))
        .route(
            "/accounts/{account}/limits/{usage_type}",
            put(accounts::set_limit).delete(accounts::clear_limit),
        )
        .route(
            "/accounts/{account}/spend-cap",
            get(spend_cap::show).put(spend_cap::set).delete(spend_cap::remove),
        )
        .route("/accounts/{account}/keys", post(keys::create).get(keys::list))
        .route("/keys/{key}", delete(keys::revoke))
        .route("/keys/{key}/rotate", post(keys::rotate))
        .route("/keys/{key}/scopes", post(keys::change_scopes))
        .route("/plans", get(list_plans))
        .route("/corrections", post(corrections::create).get(corrections::list))
        .route("/audit", get(audit::list))
        .route(
            "/accounts/{account}/notice-endpoint",
            put(notices::set).get(notices::show).delete(notices::remove),
        )
        .route("/accounts/{account}/notice-endpoint/rotate", post(notices::rotate))
        .route("/accounts/{account}/notice-endpoint/test", post(notices::test))
        .route("/accounts/{account}/notices", get(notices::list))
        .route("/notices/{notice}/replay", post(notices::replay))
        .route("/reports", get(reports::list))
        .route("/reports/attention", get(reports::attention))
        .route("/reports/{identifier}/retry", post(reports::retry))
        .route("/runs", get(runs::list))
        .route("/runs/{run}/give-up", post(runs::give_up))
        .fallback(async || Problem::of(Kind::UnknownRoute))
        .method_not_allowed_fallback(async || Problem::of(Kind::MethodNotAllowed))
        .layer(DefaultBodyLimit::max(body::BYTES_MAX))
        .layer(middleware::from_fn_with_state(api.clone(), authorize::authorize))
        .layer(middleware::from_fn_with_state(
            (api.metrics.clone(), "admin"),
            metrics::count,
        ))
        .with_state(api);
    Router::new().nest("/admin", routes)
}

async fn list_plans(admin: Administration) -> Result<Json<PlansAndVersions>, Error> {
    Ok(Json(plans::with_versions(&admin).await?))
}
