//! A request's body with a minimum pace. Without it, a body that arrives byte by byte, or stops, would hold its request
//! without end.
//!
//! Only the time spent waiting for the client counts. A body that is forwarded to a slow upstream is not slow.
//!
//! tower-http's `TimeoutBody` does not do this: it limits only the wait for each piece. With a limit of 15 seconds, a
//! client that sends one byte every 14 seconds keeps a request of 1 MiB open for 170 days. Here the request fails after 15 seconds.

use std::{
    error::Error,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The maximum wait for the next piece, and how far a whole body may fall behind its rate.
    pub idle: Duration,
    pub bytes_per_second: u64,
}

/// The client sends too slowly, or has stopped sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body did not arrive in time")]
pub struct BodyStalled;

pub(super) struct Paced<B> {
    body: B,
    pace: Pace,
    bytes: u64,
    waited: Duration,
    waiting: Option<Waiting>,
}

struct Waiting {
    since: Instant,
    end: Pin<Box<Sleep>>,
}

/// Whether a body ended because its client was too slow. Checks the error and its causes.
pub fn has_stalled(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<BodyStalled>() {
            return true;
        }
        cause = error.source();
    }
    false
}

impl Pace {
    /// Returns how long the next piece may take, after `waited` for the previous `bytes`.
    fn patience(&self, bytes: u64, waited: Duration) -> Duration {
        let earned = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second.max(1) as f64);
        (self.idle + earned).saturating_sub(waited).min(self.idle)
    }
}

impl<B> Paced<B> {
    pub(super) fn new(body: B, pace: Pace) -> Self {
        Self {
            body,
            pace,
            bytes: 0,
            waited: Duration::ZERO,
            waiting: None,
        }
    }
}

impl<B> Body for Paced<B>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Unpin,
{
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        match Pin::new(&mut this.body).poll_frame(context) {
            Poll::Ready(frame) => {
                if let Some(waiting) = this.waiting.take() {
                    this.waited += waiting.since.elapsed();
                }
                if let Some(Ok(frame)) = &frame {
                    this.bytes += frame.data_ref().map_or(0, Bytes::len) as u64;
                }
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
            Poll::Pending => {
                let patience = this.pace.patience(this.bytes, this.waited);
                let waiting = this.waiting.get_or_insert_with(|| {
                    let since = Instant::now();
                    let end = Box::pin(sleep_until(since + patience));
                    Waiting { since, end }
                });
                match waiting.end.as_mut().poll(context) {
                    Poll::Ready(()) => Poll::Ready(Some(Err(BodyStalled.into()))),
                    Poll::Pending => Poll::Pending,
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt, StreamBody};
    use tokio::sync::mpsc;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn patience_is_limited_for_each_piece_and_grows_with_the_received_bytes() {
        let pace = Pace {
            idle: s(10),
            bytes_per_second: 100,
        };
        for (bytes, waited, patience) in [
            (0, s(0), s(10)),
            (0, s(10), s(0)),
            // Byte by byte: each byte arrives at once, but together they take too long.
            (20, s(9), Duration::from_millis(1_200)),
            (20, s(60), s(0)),
            // Exactly as fast as required.
            (6_000, s(60), s(10)),
            (1_000_000, s(1), s(10)),
        ] {
            assert_eq!(pace.patience(bytes, waited), patience, "{bytes} bytes in {waited:?}");
        }
    }

    fn fed() -> (
        mpsc::Sender<Bytes>,
        impl Body<Data = Bytes, Error = std::io::Error> + Unpin,
    ) {
        let (sender, receiver) = mpsc::channel::<Bytes>(8);
        let stream = futures_util::stream::unfold(receiver, |mut receiver| async {
            let bytes = receiver.recv().await?;
            Some((Ok(Frame::data(bytes)), receiver))
        });
        (sender, StreamBody::new(Box::pin(stream)))
    }

    #[tokio::test]
    async fn a_stalled_body_is_recognized_through_its_wrappers() {
        let pace = Pace {
            idle: Duration::from_millis(30),
            bytes_per_second: 1,
        };
        let (sender, body) = fed();
        let mut body = axum::body::Body::new(axum::body::Body::new(Paced::new(body, pace)));
        sender.send(Bytes::from_static(b"x")).await.unwrap();
        assert!(body.frame().await.unwrap().is_ok());
        let stalled = body.frame().await.unwrap().unwrap_err();
        assert!(has_stalled(&stalled));
        assert!(!has_stalled(&axum::Error::new(std::io::Error::other("broken off"))));
    }

    #[tokio::test]
    async fn time_during_which_nobody_reads_does_not_count() {
        let pace = Pace {
            idle: Duration::from_millis(50),
            bytes_per_second: 1_000_000,
        };
        let (sender, body) = fed();
        let mut body = Paced::new(body, pace);
        for _ in 0..3 {
            sender.send(Bytes::from_static(b"x")).await.unwrap();
        }
        drop(sender);
        while let Some(frame) = body.frame().await {
            frame.unwrap();
            // The reader is busy elsewhere, for longer than the client may pause.
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
        assert_eq!((body.bytes, body.waited), (3, Duration::ZERO));
    }
}
