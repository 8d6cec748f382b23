//! Whether the public URL answers, seen from this machine.

use std::time::Duration;

use axum::http::Request;
use bytes::Bytes;
use http_body_util::Full;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::time::timeout;

use super::row::Row;

const PATIENCE: Duration = Duration::from_secs(5);

/// Asks for the price list, which needs no key.
pub(super) async fn look(public_url: &str) -> Vec<Row> {
    let url = format!("{}/billing/plans", public_url.trim_end_matches('/'));
    vec![rule(
        &url,
        timeout(PATIENCE, status(&url))
            .await
            .unwrap_or_else(|_| Err(format!("no answer in {PATIENCE:?}"))),
    )]
}

fn rule(url: &str, answer: Result<u16, String>) -> Row {
    let why = match answer {
        Ok(200) => return Row::ok(format!("{url} answers")),
        Ok(status) => format!("it answers with the status {status}"),
        Err(why) => why,
    };
    Row::error(
        format!("{url} does not show the price list: {why}"),
        "start the billing worker, or correct BILLING_PUBLIC_URL; Stripe sends its events and customers to this host",
    )
}

async fn status(url: &str) -> Result<u16, String> {
    let connector = HttpsConnectorBuilder::new()
        .with_webpki_roots()
        .https_or_http()
        .enable_http1()
        .build();
    let client = Client::builder(TokioExecutor::new()).build(connector);
    let request = Request::get(url)
        .body(Full::<Bytes>::default())
        .map_err(|error| error.to_string())?;
    let response = client.request(request).await.map_err(|error| error.to_string())?;
    Ok(response.status().as_u16())
}

#[cfg(test)]
mod tests {
    use super::{super::row::Level, *};

    #[test]
    fn only_the_price_list_is_an_answer() {
        for (answer, expected) in [
            (Ok(200), Level::Ok),
            (Ok(502), Level::Error),
            (Err("refused".to_owned()), Level::Error),
        ] {
            assert_eq!(rule("https://b.example/billing/plans", answer).level, expected);
        }
    }
}
