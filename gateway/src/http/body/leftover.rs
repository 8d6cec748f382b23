//! The unread rest of a body. If a connection is closed while its client still sends, it is reset, and the response is lost.
//! So the rest of the body is read, within bounds, before a response is sent. If it cannot be read, the response says that the
//! connection ends, because no further request can be read from it.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use axum::http::{HeaderMap, header::EXPECT};
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;

/// The maximum number of bytes that are read. For a client that sends more, the connection is reset.
const BYTES_MAX: usize = 16 * 1024 * 1024;
const TIME_MAX: Duration = Duration::from_secs(2);

/// A body that puts its unread rest into `back` when it is dropped.
struct Lent {
    body: Option<Body>,
    back: Leftover,
}

#[derive(Clone, Default)]
pub struct Leftover(Arc<Mutex<State>>);

#[derive(Default)]
enum State {
    /// The handler or the upstream's connection holds the body, and has not read all of it.
    #[default]
    Held,
    Unread(Body),
    /// Read to its end.
    Read,
}

/// Returns the body for the handler, and a `Leftover` that receives its unread rest. `None`: the body is empty, or the client
/// waits for `100 Continue` before it sends anything.
pub fn lend(headers: &HeaderMap, body: Body) -> (Body, Option<Leftover>) {
    if body.is_end_stream() || headers.contains_key(EXPECT) {
        return (body, None);
    }
    let back = Leftover::default();
    let lent = Lent {
        body: Some(body),
        back: back.clone(),
    };
    (Body::new(lent), Some(back))
}

impl Leftover {
    /// Reads the rest, within bounds. `true`: the body was read to its end, so another request can follow.
    pub async fn finish(self) -> bool {
        let mut body = match std::mem::take(&mut *self.lock()) {
            State::Read => return true,
            State::Held => return false,
            State::Unread(body) => body,
        };
        let discarding = async {
            let mut left = BYTES_MAX;
            while let Some(frame) = body.frame().await {
                let length = frame.ok()?.data_ref().map_or(0, Bytes::len);
                left = left.checked_sub(length)?;
            }
            Some(())
        };
        // The response is sent in any case, also after the time-out.
        matches!(tokio::time::timeout(TIME_MAX, discarding).await, Ok(Some(())))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl http_body::Body for Lent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let poll = Pin::new(&mut *body).poll_frame(context);
        if matches!(poll, Poll::Ready(None)) || body.is_end_stream() {
            // The upstream's connection may hold it for longer.
            self.body = None;
            *self.back.lock() = State::Read;
        }
        poll
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(body) = self.body.take() {
            *self.back.lock() = State::Unread(body);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{StreamExt, stream};
    use std::{
        convert::Infallible,
        sync::atomic::{AtomicUsize, Ordering::Relaxed},
    };

    /// Pieces of 1 MiB; `read` counts those that were taken.
    fn counted(pieces: usize, read: Arc<AtomicUsize>) -> Body {
        Body::from_stream(stream::iter(0..pieces).map(move |_| {
            read.fetch_add(1, Relaxed);
            Ok::<_, Infallible>(Bytes::from_static(&[0; 1024 * 1024]))
        }))
    }

    #[tokio::test]
    async fn the_unread_rest_is_read_within_bounds() {
        // One piece read by the handler, then 16, and one that exceeds the limit.
        for (pieces, taken, is_read) in [(10, 10, true), (1_000, 1 + 16 + 1, false)] {
            let read = Arc::new(AtomicUsize::new(0));
            let (mut body, leftover) = lend(&HeaderMap::new(), counted(pieces, read.clone()));
            body.frame().await.unwrap().unwrap();
            drop(body);
            assert_eq!(read.load(Relaxed), 1);
            assert_eq!(leftover.unwrap().finish().await, is_read);
            assert_eq!(read.load(Relaxed), taken);
        }
    }

    #[tokio::test]
    async fn a_connection_goes_on_only_after_the_end_of_a_body() {
        let (mut body, leftover) = lend(&HeaderMap::new(), counted(2, Arc::default()));
        body.frame().await.unwrap().unwrap();
        assert!(!leftover.clone().unwrap().finish().await, "somebody still reads it");
        while body.frame().await.is_some() {}
        assert!(leftover.unwrap().finish().await);
        let (body, leftover) = lend(&HeaderMap::new(), Body::from("x"));
        drop(body);
        assert!(leftover.unwrap().finish().await);
    }

    #[tokio::test]
    async fn a_client_that_waits_for_100_continue_is_not_asked_to_send() {
        let headers = [(EXPECT, axum::http::HeaderValue::from_static("100-continue"))]
            .into_iter()
            .collect();
        assert!(lend(&headers, Body::from("x")).1.is_none());
        assert!(lend(&HeaderMap::new(), Body::empty()).1.is_none());
    }
}
