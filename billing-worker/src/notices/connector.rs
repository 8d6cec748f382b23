//! Connects to an endpoint: resolves the host, checks each address, and connects to the checked address. The name is resolved
//! only once, so a changed DNS answer cannot bypass the check.

use std::{
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::http::{Uri, uri::Scheme};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tower::Service;

use super::address;

/// Per address, so that an unreachable address leaves time for the next one.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum number of addresses to try: a name may have thousands.
const ADDRESSES_MAX: usize = 8;

#[derive(Clone, Copy, Debug)]
pub struct Connector {
    pub allow_private: bool,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<TcpStream>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let allow_private = self.allow_private;
        Box::pin(async move { connect(&uri, allow_private).await.map(TokioIo::new) })
    }
}

/// Returns the address if the URL contains one instead of a name, in any form that a resolver accepts.
pub fn literal(uri: &Uri) -> Option<IpAddr> {
    let host = host(uri);
    host.parse().ok().or_else(|| numbers(host).map(IpAddr::V4))
}

/// Whether the name always means this machine (RFC 6761, 6.3).
pub fn is_local(uri: &Uri) -> bool {
    let name = host(uri).trim_end_matches('.').to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost")
}

/// Whether the host ends with a number, as no name does, and is not an address.
pub fn is_broken_address(uri: &Uri) -> bool {
    let last = host(uri).trim_end_matches('.').rsplit('.').next();
    let is_number = last.is_some_and(|last| {
        (!last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit())) || number(last).is_some()
    });
    is_number && literal(uri).is_none()
}

/// Reads an IPv4 address as `inet_aton` does: one to four numbers, of which the last fills the rest of the address.
fn numbers(host: &str) -> Option<Ipv4Addr> {
    let parts: Option<Vec<u32>> = host.trim_end_matches('.').split('.').map(number).collect();
    let parts = parts?;
    let (last, first) = parts.split_last()?;
    if first.len() > 3 || first.iter().any(|part| *part > 255) {
        return None;
    }
    let mut address = 0;
    let mut room = 32;
    for part in first {
        room -= 8;
        address |= part << room;
    }
    let fits = u64::from(*last) < 1 << room;
    fits.then(|| Ipv4Addr::from(address | last))
}

/// A number in decimal, octal or hexadecimal digits.
fn number(text: &str) -> Option<u32> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None if text.len() > 1 && text.starts_with('0') => (&text[1..], 8),
        None => (text, 10),
    };
    let is_digits = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_digits.then(|| u32::from_str_radix(digits, radix).ok())?
}

/// Explains why an address is refused.
pub fn refusal(address: IpAddr) -> Option<String> {
    address::refused(address)
        .map(|kind| format!("the host's address {address} is {kind}: notices go to public addresses only"))
}

async fn connect(uri: &Uri, allow_private: bool) -> io::Result<TcpStream> {
    let port = uri.port_u16().unwrap_or(match uri.scheme() {
        Some(scheme) if *scheme == Scheme::HTTP => 80,
        _ => 443,
    });
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for address in lookup_host((host(uri), port)).await?.take(ADDRESSES_MAX) {
        if let Some(refusal) = refusal(address.ip()).filter(|_| !allow_private) {
            failure = io::Error::new(io::ErrorKind::PermissionDenied, refusal);
            continue;
        }
        match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => failure = error,
            Err(_) => {
                let silent = format!("no connection within {CONNECT_TIMEOUT:?}");
                failure = io::Error::new(io::ErrorKind::TimedOut, silent);
            }
        }
    }
    Err(failure)
}

/// Returns the host for a resolver: an IPv6 address without brackets.
fn host(uri: &Uri) -> &str {
    let host = uri.host().unwrap_or_default();
    host.strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_private_address_is_refused_however_it_is_written() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        // Also the forms that inet_aton accepts: they are resolved before the check.
        for host in [
            "127.0.0.1",
            "localhost",
            "127.1",
            "2130706433",
            "0x7f.0.0.1",
            "[::ffff:127.0.0.1]",
        ] {
            let uri: Uri = format!("http://{host}:{port}/").parse().unwrap();
            let refused = connect(&uri, false).await.unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied, "{host}: {refused}");
        }
        let uri: Uri = format!("http://localhost:{port}/").parse().unwrap();
        let stream = connect(&uri, true).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap().port(), port);
    }
}
