//! Responses that several pages use.

use std::sync::Arc;

use axum::extract::State as Shared;
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Redirect, Response};

use crate::failure::Failure;
use crate::pages::html::{self, Width, escape};
use crate::server::double::Double;

pub(crate) type DoubleState = Shared<Arc<Double>>;

pub(crate) fn see(url: &str) -> Response {
    match url.parse::<http::HeaderValue>() {
        Ok(_) => Redirect::to(url).into_response(),
        Err(_) => gone("The URL to return to is invalid."),
    }
}

pub(crate) fn gone(what: &str) -> Response {
    let page: Html<String> = html::page("Not here", Width::Narrow, &format!("<p>{}</p>", escape(what)));
    (StatusCode::NOT_FOUND, page).into_response()
}

pub(crate) fn problem(failure: &Failure) -> Response {
    let page = html::page(
        "That did not work",
        Width::Narrow,
        &format!("<p class=\"bad\">{}</p>", escape(failure.message())),
    );
    (
        StatusCode::from_u16(failure.status).unwrap_or(StatusCode::BAD_REQUEST),
        page,
    )
        .into_response()
}
