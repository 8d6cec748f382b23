//! The pages to which Stripe redirects the customer's browser. They are public and show nothing about the account.

use axum::{
    http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY},
    response::{Html, IntoResponse, Response},
};

pub(super) async fn success() -> Response {
    page(
        "Thank you",
        "Your subscription starts when the payment is confirmed, usually within a few seconds. You can close this page.",
    )
}

pub(super) async fn cancelled() -> Response {
    page(
        "Nothing was changed",
        "You left the checkout before paying. You can start again at any time.",
    )
}

/// After the customer portal.
pub(super) async fn returned() -> Response {
    page(
        "Welcome back",
        "Your changes take effect within a few seconds. You can close this page.",
    )
}

fn page(title: &str, text: &str) -> Response {
    let html = format!(
        r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} · Trendit Usage</title>
<style>
body {{ font: 17px/1.5 system-ui, sans-serif; color: #1b1f24; background: #f6f7f9; display: grid; place-items: center; min-height: 90vh; margin: 0 }}
main {{ background: #fff; border: 1px solid #d9dde3; border-radius: 12px; padding: 2.5rem 3rem; max-width: 30rem }}
h1 {{ font-size: 1.5rem; margin: 0 0 .75rem }}
p {{ margin: 0; color: #4a5260 }}
</style>
</head>
<body><main><h1>{title}</h1><p>{text}</p></main></body>
</html>
"#
    );
    let headers = [
        (
            CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
        ),
        (CACHE_CONTROL, "no-store"),
    ];
    (headers, Html(html)).into_response()
}
