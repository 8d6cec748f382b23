//! Tracks what a connection is doing and since when, to cut it when it is inactive for too long.
//!
//! The tasks that advance a connection note it in an atomic, and one timer for each connection checks it every few seconds.
//!
//! hyper and tower do not have this. hyper's `header_read_timeout` is one time for an idle connection and for a head, and
//! nothing limits a client that does not read its response. It also costs more, because it sets a timer for every request:
//! 1,970 instructions for each request on a connection that is kept alive, and this module costs 1,305 (`cost_tests`).

use std::{
    fmt,
    io::{IoSlice, Result},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::body::{Body, Bytes};
use hyper::body::{Frame, SizeHint};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, sleep},
};

use super::ServerLimits;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Between two requests.
    Idle,
    /// A head has begun, or none was sent yet.
    Head,
    /// A request is being served. Its body and its response have their own limits.
    Serving,
}

/// Why a connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overdue {
    Head,
    Idle,
    Answer,
}

pub(super) struct Pulse {
    begun: Instant,
    /// Milliseconds since `begun`, and in the last two bits the [`Phase`] that began then.
    phase: AtomicU64,
    /// Milliseconds since `begun`, plus 1, of the moment when the client stopped reading its response. 0: it reads.
    blocked: AtomicU64,
}

impl Pulse {
    pub(super) fn begin() -> Self {
        Self {
            begun: Instant::now(),
            phase: AtomicU64::new(Phase::Head as u64),
            blocked: AtomicU64::new(0),
        }
    }

    /// A head is complete, and its request is being served now.
    pub(super) fn asked(&self) {
        self.enter(Phase::Serving);
    }

    fn enter(&self, phase: Phase) {
        self.phase.store(self.now_ms() << 2 | phase as u64, Relaxed);
    }

    fn phase(&self) -> (Phase, Duration) {
        let packed = self.phase.load(Relaxed);
        let phase = match packed & 3 {
            0 => Phase::Idle,
            1 => Phase::Head,
            _ => Phase::Serving,
        };
        (phase, Duration::from_millis(packed >> 2))
    }

    fn blocked_since(&self) -> Option<Duration> {
        self.blocked.load(Relaxed).checked_sub(1).map(Duration::from_millis)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX >> 2)
    }
}

/// Returns when the connection must be cut, up to half the shortest limit later than its own limit.
pub(super) async fn overdue(pulse: &Pulse, limits: &ServerLimits) -> Overdue {
    let shortest = limits.head_timeout.min(limits.idle_timeout).min(limits.answer_timeout);
    loop {
        let now = pulse.begun.elapsed();
        match judge(now, pulse.phase(), pulse.blocked_since(), limits) {
            Ok(rest) => sleep(rest.min(shortest / 2).max(Duration::from_millis(10))).await,
            Err(overdue) => return overdue,
        }
    }
}

/// Returns the remaining time of the connection in its current state, or why it has none. All times count from its start.
fn judge(
    now: Duration,
    (phase, since): (Phase, Duration),
    blocked_since: Option<Duration>,
    limits: &ServerLimits,
) -> std::result::Result<Duration, Overdue> {
    let of_phase = match phase {
        Phase::Idle => Some((since + limits.idle_timeout, Overdue::Idle)),
        Phase::Head => Some((since + limits.head_timeout, Overdue::Head)),
        Phase::Serving => None,
    };
    let of_answer = blocked_since.map(|since| (since + limits.answer_timeout, Overdue::Answer));
    match of_phase.into_iter().chain(of_answer).min_by_key(|(end, _)| *end) {
        Some((end, why)) if end <= now => Err(why),
        Some((end, _)) => Ok(end - now),
        None => Ok(Duration::MAX),
    }
}

impl Overdue {
    /// The name in metrics.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Head => "head",
            Self::Idle => "idle",
            Self::Answer => "answer",
        }
    }
}

impl fmt::Display for Overdue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Head => "the head of a request did not arrive in time",
            Self::Idle => "no further request arrived",
            Self::Answer => "the client does not read its response",
        })
    }
}

/// Observes the connection's bytes as they pass.
pub(super) struct Observed<S> {
    stream: S,
    pulse: Arc<Pulse>,
}

impl<S> Observed<S> {
    pub(super) fn new(stream: S, pulse: Arc<Pulse>) -> Self {
        Self { stream, pulse }
    }

    fn wrote(&self, poll: Poll<Result<usize>>) -> Poll<Result<usize>> {
        let blocked = self.pulse.blocked.load(Relaxed) != 0;
        match poll.is_pending() {
            true if !blocked => self.pulse.blocked.store(self.pulse.now_ms() + 1, Relaxed),
            false if blocked => self.pulse.blocked.store(0, Relaxed),
            _ => {}
        }
        poll
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Observed<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let before = buffer.filled().len();
        let poll = Pin::new(&mut self.stream).poll_read(context, buffer);
        // Bytes after a response belong to the next request.
        if buffer.filled().len() > before && self.pulse.phase().0 == Phase::Idle {
            self.pulse.enter(Phase::Head);
        }
        poll
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Observed<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.wrote(poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.wrote(poll)
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

/// A response's body. It is dropped when it has been written. Then the connection waits for the next request.
pub(super) struct ResponseBody {
    body: Body,
    pulse: Arc<Pulse>,
}

impl ResponseBody {
    pub(super) fn new(body: Body, pulse: Arc<Pulse>) -> Self {
        Self { body, pulse }
    }
}

impl hyper::body::Body for ResponseBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        self.pulse.enter(Phase::Idle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn limits() -> ServerLimits {
        ServerLimits {
            head_timeout: s(10),
            idle_timeout: s(75),
            answer_timeout: s(30),
            ..ServerLimits::admin()
        }
    }

    #[test]
    fn each_phase_has_its_own_limit_and_a_request_under_way_has_none() {
        for (now, phase, blocked, expected) in [
            (s(9), (Phase::Head, s(0)), None, Ok(s(1))),
            (s(10), (Phase::Head, s(0)), None, Err(Overdue::Head)),
            (s(70), (Phase::Head, s(65)), None, Ok(s(5))),
            (s(74), (Phase::Idle, s(0)), None, Ok(s(1))),
            (s(75), (Phase::Idle, s(0)), None, Err(Overdue::Idle)),
            (s(9_999), (Phase::Serving, s(0)), None, Ok(Duration::MAX)),
            (s(50), (Phase::Serving, s(0)), Some(s(21)), Ok(s(1))),
            (s(51), (Phase::Serving, s(0)), Some(s(21)), Err(Overdue::Answer)),
            // The whole response is in the kernel's buffer, and the client does not read it.
            (s(51), (Phase::Idle, s(22)), Some(s(21)), Err(Overdue::Answer)),
        ] {
            assert_eq!(
                judge(now, phase, blocked, &limits()),
                expected,
                "{now:?} {phase:?} {blocked:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_connection_moves_through_its_phases() {
        let pulse = Arc::new(Pulse::begin());
        let (mut client, server) = tokio::io::duplex(4);
        let mut observed = Observed::new(server, pulse.clone());
        let phase = || pulse.phase().0;
        assert_eq!(phase(), Phase::Head);
        pulse.asked();
        assert_eq!(phase(), Phase::Serving);
        drop(ResponseBody::new(Body::empty(), pulse.clone()));
        assert_eq!(phase(), Phase::Idle);

        client.write_all(b"G").await.unwrap();
        assert_eq!(phase(), Phase::Idle, "nobody has read it");
        observed.read_u8().await.unwrap();
        assert_eq!(phase(), Phase::Head);

        observed.write_all(b"full").await.unwrap();
        let mut context = Context::from_waker(std::task::Waker::noop());
        assert!(Pin::new(&mut observed).poll_write(&mut context, b"x").is_pending());
        assert!(pulse.blocked_since().is_some());
        client.read_u8().await.unwrap();
        assert!(Pin::new(&mut observed).poll_write(&mut context, b"x").is_ready());
        assert_eq!(pulse.blocked_since(), None);
    }
}
