//! The sender of a request: its address and user agent, and the request id for tracing.

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderName, HeaderValue, header::USER_AGENT};
use ipnet::IpNet;
use service::server::request_id;

pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Longer texts from clients are cut to this many bytes before they are stored.
pub const TEXT_MAX: usize = 2048;

#[derive(Clone, Debug)]
pub struct Client {
    /// The client's own id if it is valid, otherwise a new one.
    pub request_id: HeaderValue,
    /// The other end of the connection.
    pub peer: IpAddr,
    /// The client's address: the peer's, or the one that a trusted proxy names.
    pub address: IpAddr,
    pub behind_trusted_proxy: bool,
    pub user_agent: Option<HeaderValue>,
}

impl Client {
    pub fn of(headers: &HeaderMap, peer: IpAddr, trusted: &[IpNet]) -> Self {
        let peer = peer.to_canonical();
        let behind_trusted_proxy = is_trusted(peer, trusted);
        Self {
            request_id: request_id::of(headers),
            peer,
            address: if behind_trusted_proxy {
                forwarded_for(headers, peer, trusted)
            } else {
                peer
            },
            behind_trusted_proxy,
            user_agent: headers.get(USER_AGENT).cloned(),
        }
    }

    pub fn request_id(&self) -> &str {
        self.request_id.to_str().unwrap_or_default()
    }

    /// The user agent as it is stored.
    pub fn user_agent(&self) -> String {
        let text = self
            .user_agent
            .as_ref()
            .map(|value| String::from_utf8_lossy(value.as_bytes()));
        text.map(|text| cut(&text, TEXT_MAX).to_owned()).unwrap_or_default()
    }
}

/// The start of `text` that fits into `max` bytes, cut between characters.
pub fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

/// The right-most hop that is not a trusted proxy. Everything to its left can be forged.
fn forwarded_for(headers: &HeaderMap, peer: IpAddr, trusted: &[IpNet]) -> IpAddr {
    let mut nearest = peer;
    for line in headers.get_all(X_FORWARDED_FOR).iter().rev() {
        for hop in line.to_str().unwrap_or_default().rsplit(',') {
            // No trusted proxy writes an invalid address, so the hop before is the last known one.
            let Some(hop) = hop_address(hop.trim()) else {
                return nearest;
            };
            nearest = hop;
            if !is_trusted(hop, trusted) {
                return nearest;
            }
        }
    }
    nearest
}

/// An address, with or without a port.
fn hop_address(hop: &str) -> Option<IpAddr> {
    let is_port = |text: &str| text.parse::<u16>().is_ok() && text.bytes().all(|byte| byte.is_ascii_digit());
    let address = hop.parse().ok().or_else(|| match hop.strip_prefix('[') {
        Some(v6) => match v6.split_once(']')? {
            (v6, "") => v6.parse().ok().map(IpAddr::V6),
            (v6, port) if port.strip_prefix(':').is_some_and(is_port) => v6.parse().ok().map(IpAddr::V6),
            _ => None,
        },
        None => match hop.split_once(':')? {
            (v4, port) if is_port(port) => v4.parse().ok().map(IpAddr::V4),
            _ => None,
        },
    });
    address.map(|address: IpAddr| address.to_canonical())
}

fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|network| network.contains(&address))
}

#[cfg(test)]
mod tests {
    use service::server::request_id::X_REQUEST_ID;
    use uuid::Uuid;

    use super::*;

    fn headers(lines: &[(HeaderName, &str)]) -> HeaderMap {
        let line = |(name, value): &(HeaderName, &str)| (name.clone(), HeaderValue::from_str(value).unwrap());
        lines.iter().map(line).collect()
    }

    fn address(peer: &str, hops: &[&str]) -> String {
        let trusted = ["10.0.0.0/8", "fd00::/8"].map(|network| network.parse::<IpNet>().unwrap());
        let hops: Vec<_> = hops.iter().map(|hop| (X_FORWARDED_FOR, *hop)).collect();
        Client::of(&headers(&hops), peer.parse().unwrap(), &trusted)
            .address
            .to_string()
    }

    #[test]
    fn a_stranger_cannot_choose_its_address() {
        assert_eq!(address("192.0.2.1", &["203.0.113.9"]), "192.0.2.1");
        assert_eq!(address("10.0.0.1", &["6.6.6.6, 203.0.113.9"]), "203.0.113.9");
        assert_eq!(
            address("10.0.0.1", &["6.6.6.6", "203.0.113.9, 10.0.0.2"]),
            "203.0.113.9"
        );
    }

    #[test]
    fn the_right_most_untrusted_hop_is_the_client() {
        assert_eq!(address("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(address("::ffff:10.0.0.1", &["203.0.113.9"]), "203.0.113.9");
        assert_eq!(address("fd00::1", &["[2001:db8::7]:4711, 10.1.1.1:80"]), "2001:db8::7");
        assert_eq!(address("10.0.0.1", &["10.0.0.3, 10.0.0.2"]), "10.0.0.3");
        assert_eq!(address("10.0.0.1", &["203.0.113.9, unknown, 10.0.0.2"]), "10.0.0.2");
        assert_eq!(address("10.0.0.1", &[""]), "10.0.0.1");
    }

    #[test]
    fn an_invalid_hop_ends_the_trusted_part() {
        const PROXY: &str = "10.0.0.1";
        for (hops, expected) in [
            // As proxies write them.
            ("203.0.113.9:4711", "203.0.113.9"),
            ("2001:db8::7", "2001:db8::7"),
            ("[2001:db8::7]", "2001:db8::7"),
            ("[2001:db8::7]:4711", "2001:db8::7"),
            ("::ffff:203.0.113.9", "203.0.113.9"),
            ("[::ffff:10.0.0.9]:1, 10.0.0.2", "10.0.0.9"),
            (" \t203.0.113.9 ", "203.0.113.9"),
            ("10.0.0.4, 203.0.113.9, fd00::2, 10.0.0.3", "203.0.113.9"),
            // As only attackers write them.
            ("", PROXY),
            (",", PROXY),
            ("203.0.113.9,", PROXY),
            ("203.0.113.9:", PROXY),
            ("203.0.113.9:+80", PROXY),
            ("203.0.113.9:99999", PROXY),
            ("203.0.113.9:80:80", PROXY),
            ("203.0.113.9 6.6.6.6", PROXY),
            ("203.0.113", PROXY),
            ("0xcb.0.113.9", PROXY),
            ("203.000.113.009", PROXY),
            ("3405803785", PROXY),
            ("[2001:db8::7", PROXY),
            ("[2001:db8::7]4711", PROXY),
            ("[203.0.113.9]:80", PROXY),
            ("fe80::1%eth0", PROXY),
            ("\"203.0.113.9\"", PROXY),
            ("for=203.0.113.9", PROXY),
            ("unknown", PROXY),
            ("localhost", PROXY),
            ("6.6.6.6, unknown", PROXY),
            ("6.6.6.6, x, 10.0.0.2", "10.0.0.2"),
        ] {
            assert_eq!(address(PROXY, &[hops]), expected, "{hops:?}");
            assert_eq!(address("192.0.2.1", &[hops]), "192.0.2.1", "{hops:?} of a stranger");
        }
        let long_chain = format!("203.0.113.9{}", ", 10.0.0.2".repeat(1_000));
        assert_eq!(address(PROXY, &[&long_chain]), "203.0.113.9");
    }

    #[test]
    fn a_valid_request_id_is_kept_and_another_replaced() {
        let peer = "192.0.2.1".parse().unwrap();
        let id = |ids: &[&str]| {
            let ids: Vec<_> = ids.iter().map(|id| (X_REQUEST_ID, *id)).collect();
            Client::of(&headers(&ids), peer, &[]).request_id().to_owned()
        };
        assert_eq!(id(&["order-17/a"]), "order-17/a");
        assert_eq!(id(&[&"x".repeat(128)]).len(), 128);
        for odd in [&[] as &[&str], &[""], &["two words"], &["a", "b"], &[&"x".repeat(129)]] {
            let id = id(odd);
            assert_eq!(Uuid::parse_str(&id).unwrap().get_version_num(), 7, "{odd:?}");
        }
    }

    #[test]
    fn a_stored_text_is_cut_between_characters() {
        assert_eq!(cut("abc", 512), "abc");
        assert_eq!(cut("aé", 2), "a");
        let headers = [(USER_AGENT, HeaderValue::from_bytes(b"caf\xe9 bot").unwrap())]
            .into_iter()
            .collect();
        let client = Client::of(&headers, "192.0.2.1".parse().unwrap(), &[]);
        assert_eq!(client.user_agent(), "caf\u{fffd} bot");
    }
}
