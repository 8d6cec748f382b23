//! Adds problem bodies to hyper's own responses to an invalid head (400) or a head that is too large (414, 431).
//!
//! hyper answers 431 for three reasons and does not say for which one. The bytes and lines that were read since the last response
//! show it. If several requests were read together, the reason can be the wrong one of these.
//!
//! hyper has no setting for these responses, and writes them with an empty body. This module recognizes them as they are
//! written: every response of a router has an `X-Request-Id`, and they have none. A client that leaves the responses of
//! pipelined requests unread, and then sends an invalid head, may get hyper's own response, because the two are written
//! together.

use std::{
    io::{IoSlice, Result},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::body::Bytes;
use problem::{Kind, Problem};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::request_id;

/// The maximum size of hyper's responses to refused heads, in bytes.
const LENGTH_MAX: usize = 256;
const NO_BODY: &str = "content-length: 0\r\n";

/// The number of headers that hyper accepts. The server leaves this default, see [`super::connection::http`].
const HEADERS_MAX: usize = 100;

pub(super) struct RefusedHeads<S> {
    stream: S,
    type_base: Arc<str>,
    head_bytes_max: usize,
    last_read: Read,
    /// Since the last response, including the read before it.
    since_response: Read,
    /// The rest of the replacement that is not yet written.
    instead: Option<Bytes>,
}

#[derive(Clone, Copy, Default)]
struct Read {
    bytes: usize,
    lines: usize,
}

impl<S> RefusedHeads<S> {
    pub(super) fn new(stream: S, type_base: Arc<str>, head_bytes_max: usize) -> Self {
        Self {
            stream,
            type_base,
            head_bytes_max,
            last_read: Read::default(),
            since_response: Read::default(),
            instead: None,
        }
    }

    fn note(&mut self, read: &[u8]) {
        // The lines of a large body do not matter.
        let lines = match self.since_response.bytes < self.head_bytes_max {
            true => read.iter().filter(|byte| **byte == b'\n').count(),
            false => 0,
        };
        self.last_read = Read {
            bytes: read.len(),
            lines,
        };
        self.since_response.bytes = self.since_response.bytes.saturating_add(read.len());
        self.since_response.lines += lines;
    }

    fn head_too_large(&self) -> Problem {
        let detail = match self.since_response {
            Read { bytes, .. } if bytes >= self.head_bytes_max => format!(
                "the request's head must have less than {} bytes: send fewer or smaller headers, or a shorter URL",
                self.head_bytes_max
            ),
            Read { lines, .. } if lines > HEADERS_MAX => {
                format!("the request must have at most {HEADERS_MAX} headers: send fewer")
            }
            _ => "the request's Content-Length is too large: send the length of the body".to_owned(),
        };
        Problem::new(Kind::HeadTooLarge, detail)
    }
}

/// Returns the same response with a problem body. `None`: `head` is another response.
fn with_body(head: &[u8], type_base: &str, head_too_large: impl FnOnce() -> Problem) -> Option<Bytes> {
    // The cheapest test comes first, because this runs for every write.
    if head.len() > LENGTH_MAX || !head.starts_with(b"HTTP/1.") || head.get(8..10) != Some(b" 4") {
        return None;
    }
    let head = std::str::from_utf8(head).ok()?;
    if head.find("\r\n\r\n") != Some(head.len() - 4) || head.contains("x-request-id") {
        return None;
    }
    let problem = match head.get(9..12)? {
        "400" => Problem::invalid("the request's head is not valid HTTP/1.1"),
        "414" => Problem::new(Kind::UriTooLong, "the request's URI must have at most 65,534 bytes"),
        "431" => head_too_large(),
        _ => return None,
    };
    let (before, after) = head.split_once(NO_BODY)?;
    let id = request_id::new();
    let id = id.to_str().ok()?;
    let body = problem.body(type_base, id);
    let lines = format!(
        "content-type: {}\r\ncontent-length: {}\r\nx-request-id: {id}\r\n",
        problem::CONTENT_TYPE,
        body.len()
    );
    Some(
        [before.as_bytes(), lines.as_bytes(), after.as_bytes(), &body]
            .concat()
            .into(),
    )
}

impl<S: AsyncRead + Unpin> AsyncRead for RefusedHeads<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        self.note(&buffer.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for RefusedHeads<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        let this = &mut *self;
        if this.instead.is_none() {
            this.instead = with_body(bytes, &this.type_base, || this.head_too_large());
            this.since_response = this.last_read;
        }
        let Some(instead) = &mut this.instead else {
            return Pin::new(&mut this.stream).poll_write(context, bytes);
        };
        while !instead.is_empty() {
            let written = ready!(Pin::new(&mut this.stream).poll_write(context, instead))?;
            if written == 0 {
                return Poll::Ready(Ok(0));
            }
            drop(instead.split_to(written));
        }
        this.instead = None;
        // All of hyper's bytes are handled, whatever replaced them.
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        match slices {
            // A head without a body.
            [head] => self.poll_write(context, head),
            slices => {
                self.since_response = self.last_read;
                Pin::new(&mut self.stream).poll_write_vectored(context, slices)
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const HEAD_BYTES_MAX: usize = 1_000;
    const REFUSED: &str = "HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\
                           date: Sun, 29 Nov 2026 11:00:00 GMT\r\n\r\n";

    #[tokio::test]
    async fn a_refused_head_gets_a_problem_body_through_a_narrow_stream() {
        let (mut client, server) = tokio::io::duplex(7);
        let write = async move {
            let mut stream = RefusedHeads::new(server, "/errors".into(), HEAD_BYTES_MAX);
            stream.write_all(REFUSED.as_bytes()).await.unwrap();
        };
        let mut response = String::new();
        let ((), read) = tokio::join!(write, client.read_to_string(&mut response));
        read.unwrap();

        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n"));
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{head}");
        assert!(head.contains("content-type: application/problem+json\r\n"), "{head}");
        let body: Value = serde_json::from_str(body).unwrap();
        assert_eq!(
            (&body["error"], &body["type"]),
            (&"head_too_large".into(), &"/errors#head_too_large".into())
        );
        let id = body["instance"].as_str().unwrap().strip_prefix("urn:uuid:").unwrap();
        assert!(head.contains(&format!("x-request-id: {id}")), "{head}");
    }

    fn body_of(head: &[u8]) -> Option<Bytes> {
        with_body(head, "", || Problem::of(Kind::HeadTooLarge))
    }

    #[test]
    fn the_message_says_which_limit_was_exceeded() {
        let large = format!("GET / HTTP/1.1\r\nx: {}", "x".repeat(HEAD_BYTES_MAX));
        let many = format!("GET / HTTP/1.1\r\n{}", "a:\r\n".repeat(101));
        let long = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 18446744073709551615\r\n\r\n";
        for (read, says) in [
            (large.as_str(), "less than 1000 bytes"),
            (&many, "at most 100 headers"),
            (long, "Content-Length"),
        ] {
            let mut stream = RefusedHeads::new((), "".into(), HEAD_BYTES_MAX);
            for piece in read.as_bytes().chunks(400) {
                stream.note(piece);
            }
            let problem = stream.head_too_large();
            assert!(problem.detail().contains(says), "{}", problem.detail());
        }
    }

    #[test]
    fn other_responses_are_left_alone() {
        for head in [
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\nx-request-id: mine-1\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\n{}",
            "HTTP/1.1 4",
            "",
        ] {
            assert!(body_of(head.as_bytes()).is_none(), "{head}");
        }
        assert!(body_of(REFUSED.as_bytes()).is_some());
        assert!(body_of(&REFUSED.as_bytes().repeat(2)).is_none());
    }
}
