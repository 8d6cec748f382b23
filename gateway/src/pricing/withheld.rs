//! Headers of a client's request that the gateway never forwards to the upstream. So none of them can hold the cost of a
//! request: the upstream must see the same cost.

use axum::http::{
    HeaderName,
    header::{
        AUTHORIZATION, CONNECTION, EXPECT, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING,
        UPGRADE,
    },
};

/// Only the gateway may set headers with this prefix.
pub const OWN_PREFIX: &str = "x-trendit-";

/// Hop-by-hop headers (RFC 9110, 7.6.1), in addition to those that `Connection` names.
pub const HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    HeaderName::from_static("trailer"),
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Whether a header is never forwarded.
pub fn is_withheld(name: &HeaderName) -> bool {
    HOP_BY_HOP.contains(name) || [AUTHORIZATION, HOST, EXPECT].contains(name) || name.as_str().starts_with(OWN_PREFIX)
}
