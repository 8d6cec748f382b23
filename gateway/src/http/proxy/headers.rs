//! Decides which headers the gateway forwards. It drops hop-by-hop headers (RFC 9110, 7.6.1), the API key, and client headers
//! that imitate the gateway's own.

use axum::http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{AUTHORIZATION, CONNECTION, CONTENT_LENGTH, EXPECT, FORWARDED, HOST, UPGRADE},
};
use service::server::request_id::X_REQUEST_ID;

use crate::{
    http::{
        client::{Client, X_FORWARDED_FOR},
        idempotency_key::IDEMPOTENCY_KEY,
    },
    pricing::withheld::{HOP_BY_HOP, OWN_PREFIX, is_withheld},
};

pub const X_TRENDIT_ACCOUNT: HeaderName = HeaderName::from_static("x-trendit-account");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

const FORWARDED_PREFIX: &str = "x-forwarded-";

/// Turns a client's headers into the headers for the upstream. `account` is the account's id. `cost` names the header that
/// holds the route's cost.
///
/// A name with `_` instead of `-` counts as the name that it imitates, because many upstreams treat both as the same (CGI and
/// its successors).
pub fn to_upstream(
    headers: &mut HeaderMap,
    client: &Client,
    host: Option<HeaderValue>,
    account: HeaderValue,
    cost: Option<&HeaderName>,
) {
    // The upstream must see the headers that the gateway reads, even if `Connection` names them.
    drop_hop_by_hop(headers, |name| *name == IDEMPOTENCY_KEY || Some(name) == cost);
    drop_imitations(headers, cost);
    headers.remove(AUTHORIZATION);
    // The HTTP client sets the upstream's own host.
    headers.remove(HOST);
    // The gateway answers `Expect` itself when it reads the body.
    headers.remove(EXPECT);
    drop_prefixed(headers, OWN_PREFIX);
    if !client.behind_trusted_proxy {
        drop_prefixed(headers, FORWARDED_PREFIX);
        headers.remove(FORWARDED);
        headers.remove(X_REAL_IP);
    }
    let hops = headers.get_all(X_FORWARDED_FOR).iter();
    let hops: Vec<u8> = hops
        .flat_map(|hop| hop.as_bytes().iter().chain(b", "))
        .copied()
        .collect();
    let peer = client.peer.to_canonical().to_string();
    if let Ok(hops) = HeaderValue::from_bytes(&[&hops, peer.as_bytes()].concat()) {
        headers.insert(X_FORWARDED_FOR, hops);
    }
    if !headers.contains_key(X_FORWARDED_PROTO) {
        // The gateway itself does not use TLS.
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("http"));
    }
    if let Some(host) = host.filter(|_| !headers.contains_key(X_FORWARDED_HOST)) {
        headers.insert(X_FORWARDED_HOST, host);
    }
    headers.insert(X_TRENDIT_ACCOUNT, account);
    headers.insert(X_REQUEST_ID, client.request_id.clone());
}

/// Drops hop-by-hop headers of a request or a response, except the headers that `Connection` names and `is_kept` accepts.
pub fn drop_hop_by_hop(headers: &mut HeaderMap, is_kept: impl Fn(&HeaderName) -> bool) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| HeaderName::try_from(name.trim()).ok())
            // Headers about a request's origin are not hop-by-hop, and a client must not remove them.
            .filter(|name| !is_of_origin(name.as_str()) && !is_kept(name))
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

/// Whether the client asks to change to another protocol. An offer of h2c does not count: RFC 9110, 7.8 allows to ignore it and
/// to serve the request without it.
pub fn asks_to_upgrade(headers: &HeaderMap) -> bool {
    let protocols = headers.get_all(UPGRADE).iter();
    protocols
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .any(|protocol| !protocol.trim_ascii().eq_ignore_ascii_case(b"h2c"))
}

/// Whether a proxy in front of the gateway uses this header to describe a request's origin.
fn is_of_origin(name: &str) -> bool {
    name.starts_with(FORWARDED_PREFIX) || name == FORWARDED.as_str() || name == X_REAL_IP.as_str()
}

/// Drops names with `_` that imitate a header that is withheld, accepted from proxies only, or read by the gateway.
fn drop_imitations(headers: &mut HeaderMap, cost: Option<&HeaderName>) {
    let names: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().contains('_'))
        .filter(|name| {
            let meant = name.as_str().replace('_', "-");
            let Ok(meant_name) = HeaderName::try_from(meant.as_str()) else {
                return false;
            };
            is_withheld(&meant_name)
                || is_of_origin(&meant)
                || [CONTENT_LENGTH, IDEMPOTENCY_KEY, X_REQUEST_ID].contains(&meant_name)
                || Some(&meant_name) == cost
        })
        .cloned()
        .collect();
    for name in names {
        headers.remove(name);
    }
}

fn drop_prefixed(headers: &mut HeaderMap, prefix: &str) {
    let names: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with(prefix))
        .cloned()
        .collect();
    for name in names {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv4Addr};

    fn map(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let line = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        lines.iter().map(line).collect()
    }

    fn client(behind_trusted_proxy: bool) -> Client {
        Client {
            request_id: HeaderValue::from_static("request-1"),
            peer: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
            address: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
            behind_trusted_proxy,
            user_agent: None,
        }
    }

    fn passed(lines: &[(&'static str, &'static str)], trusted: bool) -> HeaderMap {
        let mut headers = map(lines);
        let host = headers.get(HOST).cloned();
        to_upstream(
            &mut headers,
            &client(trusted),
            host,
            HeaderValue::from_static("account-1"),
            Some(&HeaderName::from_static("x-cost-units")),
        );
        headers
    }

    #[test]
    fn headers_that_the_gateway_reads_are_forwarded_and_cannot_be_imitated() {
        let headers = passed(
            &[
                ("connection", "x-cost-units, idempotency-key, x-hop"),
                ("x-cost-units", "3"),
                ("x_cost_units", "1000"),
                ("x-cost_units", "1000"),
                ("idempotency-key", "k"),
                ("x-hop", "1"),
            ],
            false,
        );
        assert_eq!(
            (&headers["x-cost-units"], &headers["idempotency-key"]),
            (&HeaderValue::from(3), &HeaderValue::from_static("k"))
        );
        for gone in ["x_cost_units", "x-cost_units", "x-hop"] {
            assert!(!headers.contains_key(gone), "{gone}");
        }
    }

    #[test]
    fn hop_by_hop_headers_are_dropped() {
        let mut headers = map(&[
            ("connection", "close, X-Hop"),
            ("connection", "x-other,, not a name"),
            ("x-hop", "1"),
            ("x-other", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("te", "trailers"),
            ("trailer", "x-sum"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("x-end-to-end", "1"),
            ("content-length", "5"),
        ]);
        drop_hop_by_hop(&mut headers, |_| false);
        assert_eq!(headers, map(&[("x-end-to-end", "1"), ("content-length", "5")]));
    }

    #[test]
    fn the_upstream_sees_the_account_and_never_the_key() {
        let headers = passed(
            &[
                ("host", "api.example.com"),
                ("authorization", "Bearer tr_live_x"),
                ("x-trendit-account", "someone else"),
                ("x-trendit-plan", "enterprise"),
                ("x-request-id", "theirs"),
                ("expect", "100-continue"),
                ("idempotency-key", "k"),
            ],
            false,
        );
        let expected = map(&[
            ("x-forwarded-for", "192.0.2.1"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "api.example.com"),
            ("x-trendit-account", "account-1"),
            ("x-request-id", "request-1"),
            ("idempotency-key", "k"),
        ]);
        assert_eq!(headers, expected);
    }

    #[test]
    fn only_trusted_proxies_say_where_a_request_came_from() {
        let lines = [
            ("x-forwarded-for", "203.0.113.9"),
            ("x-forwarded-for", "198.51.100.7"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "public.example.com"),
            ("x-forwarded-port", "443"),
            ("x-real-ip", "203.0.113.9"),
            ("forwarded", "for=203.0.113.9"),
            ("host", "gateway:8080"),
        ];
        let value = |headers: &HeaderMap, name: &str| {
            assert!(headers.get_all(name).iter().count() < 2, "{name}");
            headers.get(name).map(|value| value.to_str().unwrap().to_owned())
        };
        let trusted = passed(&lines, true);
        assert_eq!(
            value(&trusted, "x-forwarded-for").unwrap(),
            "203.0.113.9, 198.51.100.7, 192.0.2.1"
        );
        assert_eq!(value(&trusted, "x-forwarded-proto").unwrap(), "https");
        assert_eq!(value(&trusted, "x-forwarded-host").unwrap(), "public.example.com");
        let stranger = passed(&lines, false);
        assert_eq!(value(&stranger, "x-forwarded-for").unwrap(), "192.0.2.1");
        assert_eq!(value(&stranger, "x-forwarded-proto").unwrap(), "http");
        assert_eq!(value(&stranger, "x-forwarded-host").unwrap(), "gateway:8080");
        for name in ["x-forwarded-port", "x-real-ip", "forwarded"] {
            assert_eq!(value(&stranger, name), None, "{name}");
            assert!(value(&trusted, name).is_some(), "{name}");
        }
    }

    #[test]
    fn names_with_underscores_do_not_imitate_other_headers() {
        let lines = [
            ("x_trendit_account", "another"),
            ("x-trendit_account", "another"),
            ("x_forwarded_for", "6.6.6.6"),
            ("x_real_ip", "6.6.6.6"),
            ("content_length", "0"),
            ("transfer_encoding", "chunked"),
            ("x_request_id", "mine"),
            ("their_own", "1"),
        ];
        for trusted in [false, true] {
            let headers = passed(&lines, trusted);
            let odd: Vec<_> = headers.keys().filter(|name| name.as_str().contains('_')).collect();
            assert_eq!(odd, ["their_own"]);
            assert_eq!(headers["x-trendit-account"], "account-1");
        }
    }

    #[test]
    fn connection_does_not_remove_what_a_proxy_says_about_the_client() {
        let lines = [
            (
                "connection",
                "x-forwarded-for, forwarded, x-real-ip, x-trendit-account, x-hop",
            ),
            ("x-forwarded-for", "203.0.113.9"),
            ("forwarded", "for=203.0.113.9"),
            ("x-real-ip", "203.0.113.9"),
            ("x-hop", "1"),
        ];
        let headers = passed(&lines, true);
        assert_eq!(headers["x-forwarded-for"], "203.0.113.9, 192.0.2.1");
        assert_eq!(headers["x-real-ip"], "203.0.113.9");
        assert!(headers.contains_key("forwarded") && !headers.contains_key("x-hop"));
        assert_eq!(headers["x-trendit-account"], "account-1");
    }

    #[test]
    fn an_offer_of_h2c_does_not_ask_to_upgrade() {
        assert!(!asks_to_upgrade(&map(&[])));
        assert!(!asks_to_upgrade(&map(&[("upgrade", "h2c")])));
        assert!(asks_to_upgrade(&map(&[("upgrade", "websocket")])));
        assert!(asks_to_upgrade(&map(&[("upgrade", "h2c, websocket")])));
    }
}
