//! `/v1/authorize`: for a proxy that asks before it forwards a request (nginx `auth_request`, Traefik ForwardAuth, Envoy
//! ext_authz). It charges when it decides, because the gateway never sees the upstream's response.
//!
//! | proxy | names the original request in |
//! |---|---|
//! | nginx | `X-Original-Method` and `X-Original-URI`, both set by `proxy_set_header` |
//! | Traefik | `X-Forwarded-Method` and `X-Forwarded-Uri` |
//! | Envoy | the method, and the path after `/v1/authorize` |
//!
//! nginx forwards `401` and `403` to the client. It replaces `402`, `429` and `503` by its own `500`, unless an `error_page` changes that.

use std::{borrow::Cow, sync::Arc, time::Duration};

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use axum::{
    Extension,
    body::Body,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use schema::clock;
use service::server::framing;

use super::authenticate;
use crate::http::uuid_value::uuid_value;
use crate::{
    http::{
        client::{Client, TEXT_MAX, cut},
        gateway::Gateway,
        idempotency_key,
        problem::{Kind, Problem},
        proxy::{USAGE_EVENT_ID, headers::X_TRENDIT_ACCOUNT},
        rate_limit,
        request_metrics::UpstreamTime,
    },
    pricing::cost::{self, Cost},
    recording::event::Facts,
};

const PATH: &str = "/v1/authorize";
const X_ORIGINAL_METHOD: HeaderName = HeaderName::from_static("x-original-method");
const X_ORIGINAL_URI: HeaderName = HeaderName::from_static("x-original-uri");
const X_FORWARDED_METHOD: HeaderName = HeaderName::from_static("x-forwarded-method");
const X_FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");

/// The original request, which the proxy asks about.
#[derive(Debug, PartialEq, Eq)]
struct Original {
    method: Method,
    uri: Uri,
}

pub async fn decide(
    State(gateway): State<Arc<Gateway>>,
    Extension(client): Extension<Client>,
    request: Request,
) -> Result<Response, Problem> {
    let original = original(request.method(), request.uri(), request.headers())?;
    let Some(route) = gateway.routes.find(&original.method, original.uri.path())? else {
        return Err(Problem::new(
            Kind::UnknownRoute,
            "no route has the original method and path: see /docs/api.md",
        ));
    };
    let time_ms = clock::now_ms();
    let key = authenticate(&gateway, request.headers(), time_ms.div_euclid(1_000)).await?;
    let burst = key.take_request(time_ms.div_euclid(1_000))?;
    let cost = match &route.cost {
        Cost::Fixed(units) => *units,
        Cost::Header(name) => cost::in_header(request.headers(), name)?,
        Cost::JsonArray(name) => {
            return Err(Problem::invalid(format!(
                "the cost of this route is the length of `{name}` in the body, which /v1/authorize does not get: proxy the route \
                 through the gateway, or give it a cost header"
            )));
        }
    };
    let account = key.account.id;
    // The client's own key, which the proxy forwards: the event of a retry is dropped as a duplicate, as if the request had
    // passed through this gateway.
    let idempotency_key = idempotency_key::of(request.headers())?.map(Cow::into_owned);
    let event_id = idempotency_key.as_deref().map(|idempotency_key| {
        idempotency_key::event_of(account, idempotency_key, &original.method, &original.uri, cost)
    });
    let facts = Facts {
        endpoint: cut(original.uri.path(), TEXT_MAX).to_owned(),
        method: original.method.as_str().to_ascii_uppercase(),
        request_id: client.request_id().to_owned(),
        address: client.address,
        user_agent: client.user_agent(),
        idempotency_key,
        event_id,
        time_ms,
    };
    let admitted = gateway.recorder.admit(key, route.usage_type, cost, facts).await?;
    let receipt = gateway.recorder.charge(admitted, 200).await?;

    let mut response = Body::empty().into_response();
    let headers = response.headers_mut();
    rate_limit::insert(headers, &[(receipt.usage_type, receipt.quota)], clock::now_s());
    rate_limit::insert_burst(headers, burst);
    headers.insert(USAGE_EVENT_ID, uuid_value(receipt.event_id.0));
    headers.insert(X_TRENDIT_ACCOUNT, uuid_value(account.0));
    response.extensions_mut().insert(UpstreamTime(Duration::ZERO));
    Ok(response)
}

/// There are three ways to name the original request. All that are used must name the same one. Otherwise a client could add the
/// headers of another way, which its proxy forwards, and be charged for a cheaper request.
fn original(method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<Original, Problem> {
    let appended = uri
        .path_and_query()
        .map_or("", |path| path.as_str())
        .strip_prefix(PATH)
        .unwrap_or_default();
    let appended = match appended.starts_with('/') {
        true => Some(named(method.as_str(), appended)?),
        false => None,
    };
    let ways = [
        appended,
        in_headers(headers, &X_ORIGINAL_METHOD, &X_ORIGINAL_URI)?,
        in_headers(headers, &X_FORWARDED_METHOD, &X_FORWARDED_URI)?,
    ];
    let mut ways = ways.into_iter().flatten();
    let Some(original) = ways.next() else {
        return Err(Problem::invalid(
            "missing original request: send X-Original-Method and X-Original-URI, or X-Forwarded-Method and X-Forwarded-Uri, or \
             append its path to /v1/authorize",
        ));
    };
    match ways.all(|other| other == original) {
        true => Ok(original),
        false => Err(Problem::invalid(
            "the original request is named in two ways that differ",
        )),
    }
}

fn in_headers(headers: &HeaderMap, method: &HeaderName, uri: &HeaderName) -> Result<Option<Original>, Problem> {
    match (single(headers, method)?, single(headers, uri)?) {
        (None, None) => Ok(None),
        (Some(method), Some(uri)) => named(method, uri).map(Some),
        // The other header could be the client's.
        _ => Err(Problem::invalid(format!("{method} and {uri} must be sent together"))),
    }
}

fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Problem> {
    let mut values = headers.get_all(name).iter().map(HeaderValue::to_str);
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(Ok(value)), None) => Ok(Some(value)),
        _ => Err(Problem::invalid(format!(
            "the header {name} must be sent once, in visible ASCII"
        ))),
    }
}

fn named(method: &str, uri: &str) -> Result<Original, Problem> {
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| Problem::invalid("invalid original method"))?;
    match uri.parse::<Uri>() {
        Ok(uri) if uri.path().starts_with('/') => {
            framing::key_in_url(&uri)?;
            Ok(Original { method, uri })
        }
        _ => Err(Problem::invalid("invalid original URI: it must begin with a path")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(method: &str, uri: &str, lines: &[(&str, &str)]) -> Option<String> {
        let line = |(name, value): &(&str, &str)| {
            (
                HeaderName::try_from(*name).unwrap(),
                HeaderValue::try_from(*value).unwrap(),
            )
        };
        let original = original(
            &Method::from_bytes(method.as_bytes()).unwrap(),
            &uri.parse().unwrap(),
            &lines.iter().map(line).collect(),
        );
        original
            .ok()
            .map(|original| format!("{} {}", original.method, original.uri))
    }

    const NGINX: [(&str, &str); 2] = [("X-Original-Method", "POST"), ("X-Original-URI", "/api/x?y=1")];
    const TRAEFIK: [(&str, &str); 2] = [("X-Forwarded-Method", "POST"), ("X-Forwarded-Uri", "/api/x?y=1")];

    #[test]
    fn every_proxy_can_name_the_original_request_in_its_way() {
        let expected = Some("POST /api/x?y=1".to_owned());
        assert_eq!(read("GET", PATH, &NGINX), expected);
        assert_eq!(read("GET", PATH, &TRAEFIK), expected);
        assert_eq!(read("POST", "/v1/authorize/api/x?y=1", &[]), expected);
        assert_eq!(read("GET", PATH, &[NGINX, TRAEFIK].concat()), expected);
        assert_eq!(read("GET", PATH, &[]), None);
        assert_eq!(read("GET", "/v1/authorize?x=/api/x", &[]), None);
    }

    #[test]
    fn a_client_cannot_name_another_request_than_its_proxy() {
        for line in [
            ("X-Forwarded-Method", "GET"),
            ("X-Forwarded-Uri", "/api/cheap"),
            ("X-Original-URI", "/api/cheap"),
        ] {
            assert_eq!(read("GET", PATH, &[&NGINX[..], &[line]].concat()), None, "{line:?}");
        }
        assert_eq!(read("GET", "/v1/authorize/api/y", &NGINX), None);
        assert_eq!(read("GET", PATH, &NGINX[1..]), None);
        assert_eq!(read("GET", PATH, &[("X-Original-Method", "G T"), NGINX[1]]), None);
        assert_eq!(read("GET", PATH, &[NGINX[0], ("X-Original-URI", "*")]), None);
    }
}
