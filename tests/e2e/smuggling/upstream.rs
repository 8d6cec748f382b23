//! A strict upstream that records the requests it reads. It reports any byte that does not belong to a well-framed request.

use std::sync::{Arc, Mutex};

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub method: String,
    pub target: String,
    /// Header names as received, in order.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// Serves until it is dropped.
pub(super) struct Upstream {
    pub url: String,
    seen: Arc<Mutex<Vec<Result<Request, String>>>>,
    stop: CancellationToken,
}

impl Upstream {
    pub(super) async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let upstream = Self {
            url: format!("http://{}", listener.local_addr()?),
            seen: Arc::default(),
            stop: CancellationToken::new(),
        };
        let (seen, stop) = (upstream.seen.clone(), upstream.stop.clone());
        TaskTracker::new().spawn(stop.clone().run_until_cancelled_owned(async move {
            let connections = TaskTracker::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(stop.clone().run_until_cancelled_owned(serve(stream, seen.clone())));
            }
        }));
        Ok(upstream)
    }

    /// Takes everything that was read since the last call.
    pub(super) fn take(&self) -> Vec<Result<Request, String>> {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn serve(mut stream: TcpStream, seen: Arc<Mutex<Vec<Result<Request, String>>>>) {
    let mut bytes = Vec::new();
    loop {
        match parse(&bytes) {
            Ok(Some((request, length))) => {
                bytes.drain(..length);
                seen.lock().unwrap().push(Ok(request));
                if stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                    .await
                    .is_err()
                {
                    return;
                }
            }
            // An incomplete request does not count: the client broke off its body.
            Ok(None) => match stream.read_buf(&mut bytes).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            },
            Err(why) => {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                return seen.lock().unwrap().push(Err(format!("{why}: {text:?}")));
            }
        }
    }
}

/// Returns a request and its length if it is complete. Accepts only what RFC 9112 allows a sender to send, and nothing that it
/// merely allows a recipient to accept.
fn parse(bytes: &[u8]) -> Result<Option<(Request, usize)>, &'static str> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| "the head is not UTF-8")?;
    let mut lines = head.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (Some(method), Some(target), Some("HTTP/1.1"), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Err("no request line");
    };
    if !is_token(method) || !target.starts_with('/') {
        return Err("invalid method or path");
    }
    let mut headers = Vec::new();
    for line in lines {
        let (name, value) = line
            .split_once(": ")
            .or(line.strip_suffix(':').map(|name| (name, "")))
            .ok_or("no header")?;
        if !is_token(name) || value.chars().any(char::is_control) {
            return Err("no header");
        }
        headers.push((name.to_owned(), value.to_owned()));
    }
    let all = |wanted: &str| -> Vec<&str> {
        let named = headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
        named.map(|(_, value)| value.as_str()).collect()
    };
    if all("host").len() != 1 {
        return Err("not exactly one host");
    }
    let rest = &bytes[end + 4..];
    let framed = match (all("content-length").as_slice(), all("transfer-encoding").as_slice()) {
        ([], []) => Some((Vec::new(), 0)),
        ([length], []) if length.bytes().all(|digit| digit.is_ascii_digit()) => {
            let length = length.parse::<usize>().map_err(|_| "no length")?;
            (rest.len() >= length).then(|| (rest[..length].to_vec(), length))
        }
        ([], ["chunked"]) => chunks(rest)?,
        _ => return Err("the body does not have exactly one length"),
    };
    Ok(framed.map(|(body, length)| {
        let request = Request {
            method: method.to_owned(),
            target: target.to_owned(),
            headers: headers.clone(),
            body,
        };
        (request, end + 4 + length)
    }))
}

/// Parses chunks without extensions and trailers.
fn chunks(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, &'static str> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let Some(line) = bytes[at..].windows(2).position(|two| two == b"\r\n") else {
            return Ok(None);
        };
        let size = std::str::from_utf8(&bytes[at..at + line]).map_err(|_| "no chunk size")?;
        if size.is_empty() || !size.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err("no chunk size");
        }
        let size = usize::from_str_radix(size, 16).map_err(|_| "no chunk size")?;
        at += line + 2;
        let Some(chunk) = bytes.get(at..at + size + 2) else {
            return Ok(None);
        };
        if &chunk[size..] != b"\r\n" {
            return Err("a chunk does not end where it says, or there are trailers");
        }
        body.extend_from_slice(&chunk[..size]);
        at += size + 2;
        if size == 0 {
            return Ok(Some((body, at)));
        }
    }
}

fn is_token(text: &str) -> bool {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_token)
}
