//! The API behind the gateway: a pool of keep-alive connections, with time-outs for each step of a request.

use std::{error::Error, pin::pin, time::Duration};

use anyhow::{Context, Result, bail};
use axum::body::Body;
use axum::http::{
    HeaderMap, Method, Request, Response, StatusCode, Uri,
    uri::{Authority, PathAndQuery, Scheme},
};
use clap::Args;
use http_body::Body as _;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use service::settings::seconds;
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use super::upload::Upload;

#[derive(Args, Clone, Debug)]
pub struct UpstreamSettings {
    /// URL of the API behind the gateway, such as http://host:port or https://host/base, whose path is put before the path of
    /// each request; without it, only /v1 is served
    #[arg(long, env = "UPSTREAM_URL", hide_env_values = true)]
    pub upstream_url: Option<String>,

    /// How long connecting to the upstream may take (seconds)
    #[arg(long, env = "UPSTREAM_CONNECT_TIMEOUT", default_value = "2", value_parser = seconds)]
    pub upstream_connect_timeout: Duration,

    /// How long the upstream may take to begin its response, after the last byte of the request (seconds)
    #[arg(long, env = "UPSTREAM_ANSWER_TIMEOUT", default_value = "30", value_parser = seconds)]
    pub upstream_answer_timeout: Duration,

    /// How long a request's body may take to reach the upstream (seconds)
    #[arg(long, env = "UPSTREAM_UPLOAD_TIMEOUT", default_value = "300", value_parser = seconds)]
    pub upstream_upload_timeout: Duration,

    /// How long an idle connection to the upstream is kept; must be shorter than the upstream keeps it, otherwise some requests
    /// fail (seconds)
    #[arg(long, env = "UPSTREAM_IDLE_TIMEOUT", default_value = "4", value_parser = seconds)]
    pub upstream_idle_timeout: Duration,

    /// Maximum number of idle connections to the upstream
    #[arg(long, env = "UPSTREAM_IDLE_MAX", default_value = "256")]
    pub upstream_idle_max: usize,
}

pub struct Upstream {
    client: Client<HttpsConnector<HttpConnector>, Body>,
    scheme: Scheme,
    authority: Authority,
    /// Prefix of each path, without a slash at its end.
    base: String,
    answer_timeout: Duration,
    upload_timeout: Duration,
}

/// A request as the upstream receives it.
pub struct Passed {
    pub method: Method,
    pub path: PathAndQuery,
    pub headers: HeaderMap,
    pub body: Body,
}

/// Why there is no response. A request that ends with one of these errors is not charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    #[error("the upstream cannot be reached")]
    Unreachable,
    /// The response is not HTTP, the connection was closed before it, or it changes the protocol although nobody asked for it.
    #[error("the upstream sent no valid response")]
    Invalid,
    #[error("the upstream did not answer in time")]
    Timeout,
    /// Caused by the client.
    #[error("the request's body broke off")]
    BodyBroken,
    /// Caused by the client.
    #[error("the request's body did not arrive in time")]
    BodyStalled,
}

impl Upstream {
    /// `None`: the settings name no upstream. It does not connect yet.
    pub fn new(settings: &UpstreamSettings) -> Result<Option<Self>> {
        let Some(url) = &settings.upstream_url else {
            return Ok(None);
        };
        let (scheme, authority, base) = target(url).with_context(|| format!("`{}`", service::nats::redacted(url)))?;
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(settings.upstream_connect_timeout));
        let connector = HttpsConnectorBuilder::new()
            .with_webpki_roots()
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(settings.upstream_idle_timeout)
            .pool_max_idle_per_host(settings.upstream_idle_max)
            .build(connector);
        Ok(Some(Self {
            client,
            scheme,
            authority,
            base,
            answer_timeout: settings.upstream_answer_timeout,
            upload_timeout: settings.upstream_upload_timeout,
        }))
    }

    /// Sends a request and returns when the head of the response has arrived.
    pub async fn send(&self, request: Passed) -> Result<Response<Incoming>, UpstreamError> {
        let mut parts = axum::http::uri::Parts::default();
        parts.scheme = Some(self.scheme.clone());
        parts.authority = Some(self.authority.clone());
        parts.path_and_query = Some(self.path(request.path)?);
        let uri = Uri::from_parts(parts).map_err(|_| UpstreamError::Invalid)?;
        let has_body = !request.body.is_end_stream();
        let (upload, progress) = Upload::new(request.body);
        let mut passed = Request::new(if has_body { Body::new(upload) } else { Body::empty() });
        *passed.method_mut() = request.method;
        *passed.uri_mut() = uri;
        *passed.headers_mut() = request.headers;

        let mut answer = pin!(self.client.request(passed));
        let answer = loop {
            let moved_at = progress.moved_at();
            let deadline =
                (moved_at + self.answer_timeout).min(progress.started() + self.upload_timeout + self.answer_timeout);
            match timeout_at(deadline, &mut answer).await {
                Ok(answer) => break answer,
                // The body moved meanwhile, so the time-out starts again.
                Err(_)
                    if progress.moved_at() > moved_at && Instant::now() < progress.started() + self.upload_timeout => {}
                Err(_) if progress.waits_for_client() => return Err(UpstreamError::BodyStalled),
                Err(_) => return Err(UpstreamError::Timeout),
            }
        };
        match answer {
            Ok(answer) if answer.status() == StatusCode::SWITCHING_PROTOCOLS => Err(UpstreamError::Invalid),
            Ok(answer) => Ok(answer),
            Err(error) => {
                let kind = match &error {
                    _ if progress.has_stalled() => UpstreamError::BodyStalled,
                    _ if progress.is_broken() => UpstreamError::BodyBroken,
                    error if error.is_connect() => UpstreamError::Unreachable,
                    _ => UpstreamError::Invalid,
                };
                // Metrics count the errors. While the upstream is down, a log line for each would flood the log.
                debug!(upstream = %self.authority, "{kind}: {}", chain(&error));
                Err(kind)
            }
        }
    }

    fn path(&self, path: PathAndQuery) -> Result<PathAndQuery, UpstreamError> {
        if self.base.is_empty() {
            return Ok(path);
        }
        PathAndQuery::try_from(format!("{}{path}", self.base)).map_err(|_| UpstreamError::Invalid)
    }
}

fn target(url: &str) -> Result<(Scheme, Authority, String)> {
    let parts = url
        .parse::<Uri>()
        .context("not a URL such as http://host:8000")?
        .into_parts();
    let (Some(scheme), Some(authority)) = (parts.scheme, parts.authority) else {
        bail!("not a URL such as http://host:8000");
    };
    if scheme != Scheme::HTTP && scheme != Scheme::HTTPS {
        bail!("neither http:// nor https://");
    }
    if authority.as_str().contains('@') {
        bail!("user and password are not passed on: remove them");
    }
    let path = parts.path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/"));
    if path.query().is_some() {
        bail!("a query cannot be put before a path");
    }
    Ok((scheme, authority, path.path().trim_end_matches('/').to_owned()))
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_is_a_url_that_paths_can_follow() {
        let read = |url: &str| target(url).map(|(scheme, authority, base)| format!("{scheme} {authority} {base}"));
        assert_eq!(read("http://127.0.0.1:8000").unwrap(), "http 127.0.0.1:8000 ");
        assert_eq!(
            read("https://api.example.com/base/").unwrap(),
            "https api.example.com /base"
        );
        for odd in [
            "127.0.0.1:8000",
            "/x",
            "ftp://h",
            "http://u:p@h",
            "http://h/?a=b",
            "http://",
        ] {
            assert!(read(odd).is_err(), "{odd}");
        }
    }
}
