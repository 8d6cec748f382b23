//! The pages that Stripe sends a customer's browser back to. They show nothing of the account: whoever has the address may see
//! them.

use axum::{
    http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY},
    response::{Html, IntoResponse, Response},
};

pub async fn success() -> Response {
    page(
        "Thank you",
        "Your subscription begins as soon as the payment is confirmed, usually within a few seconds. You can close this page.",
    )
}

pub async fn cancelled() -> Response {
    page(
        "Nothing was changed",
        "The checkout was left before it was paid. You can begin again whenever you like.",
    )
}

/// Back from the portal.
pub async fn returned() -> Response {
    page(
        "Welcome back",
        "What you changed is in force within a few seconds. You can close this page.",
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
