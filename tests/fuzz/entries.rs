//! The functions that the fuzz targets call, one per parser: they parse bytes that any client may send and check properties of the
//! result. The regular tests also call them for a short time (`tests/e2e/parsers.rs`), so they cannot break unnoticed.

use std::{net::IpAddr, str::from_utf8};

use billing_worker::{http::webhook::signature, webhook::envelope::Envelope};
use gateway::{
    http::{client::Client, idempotency_key, proxy::headers},
    pricing::{cost::json_array, withheld},
};
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use ingestor::pipeline::content::Content;
use schema::{
    LaneRecord, Manifest,
    api_key::{self, ApiKey},
    lane_record::Kind,
};
use service::server::framing;

pub(super) type Parser = fn(&[u8]);

/// Each parser, with the name of its fuzz target.
pub(super) const ALL: &[(&str, Parser)] = &[
    ("key", key),
    ("headers", request_headers),
    ("event", event),
    ("lane_record", lane_record),
    ("manifest", manifest),
    ("body", body),
    ("webhook", webhook),
];

/// An API key: a parsed key has exactly the text that was parsed, and both parsers agree.
pub(super) fn key(data: &[u8]) {
    let Ok(text) = from_utf8(data) else { return };
    let (borrowed, owned) = (api_key::identify(text), ApiKey::parse(text));
    assert_eq!(borrowed.is_ok(), owned.is_ok());
    if let (Ok((id, hash)), Ok(owned)) = (borrowed, owned) {
        assert_eq!((id, hash), (owned.id(), owned.hash()));
        assert_eq!(owned.reveal(), text);
        assert!(!format!("{owned:?}").contains(text));
    }
}

/// Headers of a request, one per line: the client that is derived from them, and the headers that are forwarded. The first byte
/// decides whether a trusted proxy sent them.
pub(super) fn request_headers(data: &[u8]) {
    let Some((first, lines)) = data.split_first() else {
        return;
    };
    let trusted = [
        "10.0.0.0/8".parse().expect("a network"),
        "fd00::/8".parse().expect("a network"),
    ];
    let peer: IpAddr = if first % 2 == 0 { [10, 0, 0, 1] } else { [192, 0, 2, 1] }.into();
    let mut lines = lines.split(|byte| *byte == b'\n');
    let target = lines.next().unwrap_or_default();
    let mut map = HeaderMap::new();
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let (name, value) = (&line[..colon], line.get(colon + 1..).unwrap_or_default());
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            map.append(name, value);
        }
    }
    if let Ok(key) = idempotency_key::of(&map) {
        assert!(
            key.is_none_or(|key| (1..=255).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic()))
        );
    }
    let client = Client::of(&map, peer, &trusted);
    assert!(!client.request_id().is_empty());
    assert!(
        client.behind_trusted_proxy || client.address == peer,
        "an untrusted client chose its address"
    );
    assert!(client.user_agent().len() <= gateway::http::client::TEXT_MAX);
    if let Ok(target) = http::Uri::try_from(target) {
        let mut request = Request::new(axum::body::Body::empty());
        *request.uri_mut() = target;
        *request.headers_mut() = map.clone();
        drop(framing::check(&request));
    }
    headers::asks_to_upgrade(&map);
    headers::to_upstream(&mut map, &client, None, HeaderValue::from_static("account"), None);
    assert_eq!(map.get_all("x-trendit-account").iter().count(), 1);
    assert_eq!(map["x-trendit-account"], "account");
    assert!(map.get_all("x-forwarded-for").iter().count() == 1 && map.get_all("x-request-id").iter().count() == 1);
    let withheld = |name: &&HeaderName| withheld::is_withheld(name) && name.as_str() != "x-trendit-account";
    assert_eq!(map.keys().find(withheld), None);
    let imitates = |name: &&HeaderName| name.as_str().replace('_', "-").starts_with("x-trendit-");
    assert_eq!(map.keys().filter(imitates).count(), 1);
}

/// One event, in an otherwise valid batch.
pub(super) fn event(data: &[u8]) {
    const ID: [u8; 16] = [1; 16];
    // Field numbers of `usage.proto`: in a batch, 1 is its id and 2 its events; in a record, 1 is the version, 2 the run and 4
    // the batch.
    let batch = [field(1, &ID), field(2, data)].concat();
    let record = [vec![0x08, 1], field(2, &ID), field(4, &batch)].concat();
    lane_record(&record);
}

fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut length = bytes.len();
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(bytes);
    out
}

/// A lane record: it survives encoding and decoding, and an ingestor stores no events of a record that cannot be decoded.
pub(super) fn lane_record(data: &[u8]) {
    let content = Content::of(data);
    let Ok(record) = LaneRecord::decode(data) else {
        assert!(
            !matches!(content, Content::Events(..)),
            "a record that cannot be decoded is stored"
        );
        return;
    };
    assert_eq!(LaneRecord::decode(&record.encode()).as_ref(), Ok(&record));
    if let (Kind::Batch { events, .. }, Content::Events(_, stored)) = (&record.kind, &content) {
        assert_eq!(events, stored);
    }
}

pub(super) fn manifest(data: &[u8]) {
    if let Ok(manifest) = Manifest::decode(data) {
        assert_eq!(Manifest::decode(&manifest.encode()).ok(), Some(manifest));
    }
}

/// A body with an array to be counted: an array has at most one element more than the body has commas.
pub(super) fn body(data: &[u8]) {
    if let Ok(length) = json_array::length(data, "texts") {
        let commas = data.iter().filter(|byte| **byte == b',').count();
        assert!((1..=commas as i64 + 1).contains(&length), "{length}");
    }
}

/// A webhook: its header, a line end, its body. It has no valid signature, so it must never verify.
pub(super) fn webhook(data: &[u8]) {
    let at = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (header, body) = (&data[..at], data.get(at + 1..).unwrap_or_default());
    if let Ok(header) = from_utf8(header) {
        let secrets = ["whsec_of_nobody".to_owned(), String::new()];
        assert!(signature::verify(header, body, &secrets, 1_795_395_600).is_err());
    }
    if let Ok(envelope) = Envelope::parse(body) {
        assert!((1..=255).contains(&envelope.id.len()));
    }
}
