//! Counts requests without a response, and responses whose body is still being sent. At the deadline of a shutdown, a request
//! without a response is lost. The request of a response that is cut off is recorded: that happens before the head is sent.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

#[derive(Debug, Default)]
pub struct UnderWay {
    unanswered: AtomicUsize,
    streams: AtomicUsize,
}

/// A request without a response, until it is dropped.
pub struct Unanswered<'a>(&'a UnderWay);

/// A body that counts as a stream until it is dropped.
pub struct Stream<B> {
    body: B,
    _counted: Counted,
}

struct Counted(Arc<UnderWay>);

impl UnderWay {
    pub fn begin(&self) -> Unanswered<'_> {
        self.unanswered.fetch_add(1, Ordering::Relaxed);
        Unanswered(self)
    }

    pub fn stream<B>(self: &Arc<Self>, body: B) -> Stream<B> {
        self.streams.fetch_add(1, Ordering::Relaxed);
        Stream {
            body,
            _counted: Counted(Arc::clone(self)),
        }
    }

    pub fn unanswered(&self) -> usize {
        self.unanswered.load(Ordering::Relaxed)
    }

    pub fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        self.0.unanswered.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Stream<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
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

    #[test]
    fn a_request_counts_until_it_is_answered_and_a_stream_until_it_ends() {
        let under_way = Arc::new(UnderWay::default());
        let request = under_way.begin();
        let stream = under_way.stream(http_body_util::Empty::<Bytes>::new());
        assert_eq!((under_way.unanswered(), under_way.streams()), (1, 1));
        drop(request);
        assert_eq!((under_way.unanswered(), under_way.streams()), (0, 1));
        drop(stream);
        assert_eq!(under_way.streams(), 0);
    }
}
