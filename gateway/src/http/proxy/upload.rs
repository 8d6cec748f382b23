//! Sends a request's body to the upstream and records when the last bytes moved, so that a long upload does not count as a slow
//! upstream.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use service::server::has_stalled;
use tokio::time::{Duration, Instant};

pub(super) struct Upload {
    body: Body,
    progress: Arc<Progress>,
}

pub(super) struct Progress {
    started: Instant,
    moved_ms: AtomicU64,
    broken: AtomicBool,
    stalled: AtomicBool,
    waiting: AtomicBool,
}

impl Upload {
    pub(super) fn new(body: Body) -> (Self, Arc<Progress>) {
        let progress = Arc::new(Progress {
            started: Instant::now(),
            moved_ms: AtomicU64::new(0),
            broken: AtomicBool::new(false),
            stalled: AtomicBool::new(false),
            waiting: AtomicBool::new(false),
        });
        let upload = Self {
            body,
            progress: progress.clone(),
        };
        (upload, progress)
    }
}

impl Progress {
    pub(super) fn started(&self) -> Instant {
        self.started
    }

    /// When the upstream last took bytes of the body, or its end.
    pub(super) fn moved_at(&self) -> Instant {
        self.started + Duration::from_millis(self.moved_ms.load(Relaxed))
    }

    /// Whether the upstream is ready for more bytes and the client sends none.
    pub(super) fn waits_for_client(&self) -> bool {
        self.waiting.load(Relaxed)
    }

    /// Whether the client aborted the body.
    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Relaxed)
    }

    /// Whether the server gave the body up because the client was too slow.
    pub(super) fn has_stalled(&self) -> bool {
        self.stalled.load(Relaxed)
    }
}

impl http_body::Body for Upload {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let poll = Pin::new(&mut self.body).poll_frame(context);
        self.progress.waiting.store(poll.is_pending(), Relaxed);
        let frame = ready!(poll);
        let moved = self.progress.started.elapsed().as_millis();
        self.progress
            .moved_ms
            .store(u64::try_from(moved).unwrap_or(u64::MAX), Relaxed);
        if let Some(Err(error)) = &frame {
            self.progress.broken.store(true, Relaxed);
            self.progress.stalled.store(has_stalled(error), Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
