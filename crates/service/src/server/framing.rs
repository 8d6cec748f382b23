//! Refuses requests that no port accepts: those that two HTTP parsers could read differently, and those with an API key in
//! their URL.
//!
//! Two readings of one request are a danger where they differ in its host or in the end of its body: an upstream could read a
//! part of a body as a second request, which the gateway never counted (request smuggling).
//!
//! hyper has already refused invalid HTTP (RFC 9112, 2.2 to 5.2, 6.3): white space around names and in targets, folded lines,
//! control bytes, lengths that differ or are not numbers, codings that do not end in `chunked`, any coding in HTTP/1.0. If a
//! request has both a length and a coding, hyper uses the coding, drops the length, and closes the connection after the response.

use axum::extract::Request;
use http::{
    HeaderMap, Method, Uri, Version,
    header::{HOST, TRANSFER_ENCODING},
    uri::{Authority, Scheme},
};
use problem::{Kind, Problem};
use schema::api_key;

/// Fails if the request must not reach a router. Then the connection must be closed.
pub fn check(request: &Request) -> Result<(), Problem> {
    let headers = request.headers();
    coding(headers)?;
    target(request.uri(), host(headers, request.version())?)?;
    method(request.method())?;
    key_in_url(request.uri())
}

/// Fails if the path or the query contains an API key, under any name.
pub fn key_in_url(uri: &Uri) -> Result<(), Problem> {
    match uri.path_and_query().is_some_and(|url| api_key::is_in_url(url.as_str())) {
        true => Err(Problem::new(
            Kind::KeyInUrl,
            "API keys must not be sent in the URL, because URLs end up in logs: send the header `Authorization: Bearer <key>`, and \
             replace this key",
        )),
        false => Ok(()),
    }
}

/// A CONNECT has a host in place of a path, so it would reach the upstream without its path. The response to a TRACE repeats the
/// request's headers, which include credentials.
fn method(method: &Method) -> Result<(), Problem> {
    match *method {
        Method::CONNECT => Err(Problem::invalid("the method CONNECT is not supported")),
        Method::TRACE => Err(Problem::invalid("the method TRACE is not supported")),
        _ => Ok(()),
    }
}

/// Accepts only `chunked` or no coding. The upstream would receive a body in any other coding without the coding's name.
fn coding(headers: &HeaderMap) -> Result<(), Problem> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(Problem::invalid(
            "unsupported Transfer-Encoding: only `chunked` is accepted",
        )),
    }
}

/// Exactly one Host header in HTTP/1.1 (RFC 9112, 3.2), at most one in HTTP/1.0. It may be empty (RFC 9110, 7.2).
fn host(headers: &HeaderMap, version: Version) -> Result<Option<&[u8]>, Problem> {
    let mut hosts = headers.get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(_), Some(_)) => return Err(Problem::invalid("more than one Host header")),
        (None, _) if version >= Version::HTTP_11 => return Err(Problem::invalid("missing Host header")),
        (None, _) => return Ok(None),
        (Some(host), None) => host.as_bytes(),
    };
    match host.is_empty() || is_name(host) || authority(host).is_some() {
        true => Ok(Some(host)),
        false => Err(Problem::invalid("invalid Host header")),
    }
}

/// Whether it is a name or an IPv4 address, with or without a port. This recognizes nearly every host without a copy.
fn is_name(host: &[u8]) -> bool {
    let (name, port) = match host.iter().position(|byte| *byte == b':') {
        Some(colon) => (&host[..colon], &host[colon + 1..]),
        None => (host, &[][..]),
    };
    !name.is_empty()
        && name
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(byte))
        && port.len() <= 5
        && port.iter().all(u8::is_ascii_digit)
}

/// A host in any notation, without a user name.
fn authority(host: &[u8]) -> Option<Authority> {
    let authority = Authority::try_from(host).ok()?;
    (!authority.as_str().contains('@')).then_some(authority)
}

/// A path, or a whole URL as a client sends it to its proxy. The URL must name the same host as the Host header.
fn target(uri: &Uri, host: Option<&[u8]>) -> Result<(), Problem> {
    let Some(named) = uri.authority() else {
        return match uri.path() {
            path if path.starts_with('/') => Ok(()),
            _ => Err(Problem::invalid("invalid request target: it must be a path")),
        };
    };
    let is_url = uri
        .scheme()
        .is_some_and(|scheme| *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS);
    match host {
        _ if !is_url => Err(Problem::invalid(
            "invalid request target: it must be a path or an http URL",
        )),
        _ if named.as_str().contains('@') => Err(Problem::invalid(
            "invalid request target: it must not contain a user name",
        )),
        // Compared without regard to case.
        Some(host) if authority(host).as_ref() != Some(named) => Err(Problem::invalid(
            "the request target and the Host header name different hosts",
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    fn accepts(version: Version, target: &str, lines: &[(&str, &str)]) -> bool {
        let mut request = Request::builder().version(version).uri(target);
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        check(&request.body(Body::empty()).unwrap()).is_ok()
    }

    #[test]
    fn a_request_with_an_ambiguous_host_is_refused() {
        let h11 = |target: &str, hosts: &[&str]| {
            let lines: Vec<_> = hosts.iter().map(|host| ("host", *host)).collect();
            accepts(Version::HTTP_11, target, &lines)
        };
        for (target, hosts) in [
            ("/x", &["a.example"] as &[&str]),
            ("/x", &["a.example:8080"]),
            ("/x", &["127.0.0.1:8080"]),
            ("/x", &["[2001:db8::1]:8080"]),
            ("/x", &[""]),
            ("http://a.example/x", &["a.example"]),
            ("http://A.example/x", &["a.EXAMPLE"]),
        ] {
            assert!(h11(target, hosts), "{target} {hosts:?}");
        }
        for (target, hosts) in [
            ("/x", &[] as &[&str]),
            ("/x", &["a.example", "a.example"]),
            ("/x", &["a.example, b.example"]),
            ("/x", &["a.example/y"]),
            ("/x", &["user@a.example"]),
            ("/x", &["a.example:80:80"]),
            ("/x", &["a b"]),
            ("*", &["a.example"]),
            ("a.example:443", &["a.example:443"]),
            ("http://a.example/x", &["b.example"]),
            ("http://a.example/x", &["a.example:81"]),
            ("http://user@a.example/x", &["a.example"]),
            ("ftp://a.example/x", &["a.example"]),
        ] {
            assert!(!h11(target, hosts), "{target} {hosts:?}");
        }
        assert!(accepts(Version::HTTP_10, "/x", &[]));
        assert!(!accepts(Version::HTTP_10, "/x", &[("host", "a"), ("host", "a")]));
    }

    #[test]
    fn a_tunnel_and_an_echo_are_refused() {
        let accepts = |method: &str, target: &str| {
            let request = Request::builder()
                .method(method)
                .uri(target)
                .header("host", "a.example");
            check(&request.body(Body::empty()).unwrap()).is_ok()
        };
        for method in ["GET", "OPTIONS", "PURGE"] {
            assert!(accepts(method, "/x"), "{method}");
        }
        for (method, target) in [
            ("CONNECT", "/x"),
            ("CONNECT", "a.example:443"),
            ("CONNECT", "http://a.example/x"),
            ("TRACE", "/x"),
        ] {
            assert!(!accepts(method, target), "{method} {target}");
        }
    }

    #[test]
    fn a_key_in_the_url_is_refused_and_not_repeated() {
        let key = api_key::ApiKey::generate();
        for target in ["/api/x/{key}", "/x?k={key}", "http://a.example/x?k={key}"] {
            let target = target.replace("{key}", key.reveal());
            let request = Request::builder().uri(target).header("host", "a.example");
            let problem = check(&request.body(Body::empty()).unwrap()).unwrap_err();
            assert_eq!(problem.kind, Kind::KeyInUrl);
            assert!(!problem.detail().contains(api_key::PREFIX));
        }
    }

    #[test]
    fn only_the_chunked_coding_is_accepted() {
        let coded = |codings: &[&str]| {
            let codings = codings.iter().map(|coding| ("transfer-encoding", *coding));
            let lines: Vec<_> = std::iter::once(("host", "a")).chain(codings).collect();
            accepts(Version::HTTP_11, "/x", &lines)
        };
        assert!(coded(&["chunked"]) && coded(&["Chunked"]));
        for codings in [
            &["gzip, chunked"] as &[&str],
            &["chunked, chunked"],
            &["chunked", "chunked"],
            &["identity", "chunked"],
            &["chunked;x=1"],
        ] {
            assert!(!coded(codings), "{codings:?}");
        }
    }
}
