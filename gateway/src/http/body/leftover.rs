//! The unread rest of a body. If a connection is closed while its client still sends, it is reset, and the response is lost.
//! So the rest of the body is read, within bounds, before a refusal is sent.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
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
pub struct Leftover(Arc<Mutex<Option<Body>>>);

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
    /// Reads the rest, unless the upstream's connection still holds the body.
    pub async fn discard(self) {
        let Some(mut body) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return;
        };
        let discarding = async {
            let mut left = BYTES_MAX;
            while let Some(Ok(frame)) = body.frame().await {
                match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
                    Some(rest) => left = rest,
                    None => return,
                }
            }
        };
        // The response is sent in any case, also after the time-out.
        drop(tokio::time::timeout(TIME_MAX, discarding).await);
    }
}

impl http_body::Body for Lent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(context),
            None => Poll::Ready(None),
        }
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
        let left = self.body.take().filter(|body| !body.is_end_stream());
        *self.back.0.lock().unwrap_or_else(PoisonError::into_inner) = left;
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
        for (pieces, taken) in [(10, 10), (1_000, 1 + 16 + 1)] {
            let read = Arc::new(AtomicUsize::new(0));
            let (mut body, leftover) = lend(&HeaderMap::new(), counted(pieces, read.clone()));
            body.frame().await.unwrap().unwrap();
            drop(body);
            assert_eq!(read.load(Relaxed), 1);
            leftover.unwrap().discard().await;
            assert_eq!(read.load(Relaxed), taken);
        }
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
