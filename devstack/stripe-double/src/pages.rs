//! Pages for people: checkout, the billing portal, an invoice, and an overview of the double.

mod checkout;
mod html;
mod invoice;
mod overview;
mod portal;
mod reply;

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};

use crate::pages::checkout::{checkout_choice, checkout_page};
use crate::server::double::Double;

pub(crate) fn router() -> Router<Arc<Double>> {
    Router::new()
        .route("/", get(overview::show))
        .route("/c/pay/{session}", get(checkout_page))
        .route("/c/pay/{session}/{choice}", post(checkout_choice))
        .route("/p/session/{session}", get(portal::show))
        .route("/p/session/{session}/{choice}/{id}", post(portal::choose))
        .route("/i/{invoice}", get(invoice::show))
        .route("/i/{invoice}/pdf", get(invoice::show))
        .route("/i/{invoice}/pay", post(invoice::pay))
}
