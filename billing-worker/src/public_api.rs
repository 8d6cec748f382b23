//! The public API: `/billing/*`.

use std::sync::Arc;

use axum::{Json, Router, extract::State, middleware, routing::get};
use schema::Catalogue;

use crate::{
    error::Error,
    metrics::{self, Metrics},
    plans::{self, PriceList},
};

pub fn router(catalogue: Arc<Catalogue>, metrics: Metrics) -> Router {
    Router::new()
        .route("/billing/plans", get(list_plans))
        .fallback(async || Error::UnknownPath)
        .method_not_allowed_fallback(async || Error::UnknownMethod)
        .layer(middleware::from_fn_with_state((metrics, "public"), metrics::count))
        .with_state(catalogue)
}

async fn list_plans(State(catalogue): State<Arc<Catalogue>>) -> Json<PriceList> {
    Json(plans::list(&catalogue))
}
