//! Why a line of an access log cannot be sent again.

use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Skip {
    Empty,
    Format,
    /// `-`, or bytes of another protocol.
    NoRequest,
    Tunnel,
    NoPath,
    Target,
    GatewayPath,
    Client,
    Status,
    UserAgent,
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "empty line",
            Self::Format => "not in combined log format, or cut off before the request",
            Self::NoRequest => "no HTTP request",
            Self::Tunnel => "CONNECT asks a proxy for a tunnel",
            Self::NoPath => "the target is not a path",
            Self::Target => "the target has characters that a URL cannot have",
            Self::GatewayPath => "the gateway answers this path itself",
            Self::Client => "the client is not an IP address",
            Self::Status => "no status from 200 to 999",
            Self::UserAgent => "the user agent has characters that a header cannot have",
        })
    }
}
