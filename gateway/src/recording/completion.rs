//! Completes work even if its client disconnects. If a client leaves while the upstream works, the request is still recorded,
//! and its units are still spent or given back.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use service::Lifecycle;

/// Runs where it is awaited. If it is dropped before its end, it continues as a task of `life` until `life` stops. Shutdown waits
/// for it.
pub struct Completion<F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    work: Option<Pin<Box<F>>>,
    life: Lifecycle,
}

pub fn see_through<F>(life: &Lifecycle, work: F) -> Completion<F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    Completion {
        work: Some(Box::pin(work)),
        life: life.clone(),
    }
}

impl<F> Future for Completion<F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        // Take the work out while it runs: after a panic it must not be polled again when this is dropped.
        let mut work = self.work.take().expect("a future is not polled after its end");
        let poll = work.as_mut().poll(context);
        if poll.is_pending() {
            self.work = Some(work);
        }
        poll
    }
}

impl<F> Drop for Completion<F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn drop(&mut self) {
        // Outside a runtime nothing can run it.
        if let Some(work) = self.work.take()
            && tokio::runtime::Handle::try_current().is_ok()
        {
            // It runs until the deadline of a shutdown at most. Work that is dropped then gives its reserved units back.
            let cut = self.life.token();
            drop(
                self.life
                    .spawn_apart(async move { cut.run_until_cancelled(work).await }),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn work_that_nobody_waits_for_is_completed_before_shutdown_ends() {
        let life = Lifecycle::new();
        let (go, gone) = oneshot::channel::<()>();
        let (done, is_done) = oneshot::channel();
        let mut completion = see_through(&life, async move {
            gone.await.unwrap();
            done.send(17).unwrap();
        });
        assert!(futures_util::poll!(&mut completion).is_pending());
        drop(completion);
        assert!(
            life.finished(Duration::from_millis(20)).await.is_err(),
            "shutdown waits for it"
        );
        go.send(()).unwrap();
        assert_eq!(is_done.await, Ok(17));
        life.finished(Duration::from_secs(10)).await.unwrap();
    }

    #[tokio::test]
    async fn work_that_ended_does_not_run_again() {
        let life = Lifecycle::new();
        assert_eq!(see_through(&life, async { 17 }).await, 17);
        life.finished(Duration::from_secs(10)).await.unwrap();
    }

    #[tokio::test]
    async fn work_that_panics_is_not_polled_again() {
        let life = Lifecycle::new();
        let panicked = tokio::task::LocalSet::new()
            .run_until(async {
                tokio::task::spawn_local(see_through(&life, async { panic!("expected by the test") })).await
            })
            .await;
        assert!(panicked.is_err());
        life.finished(Duration::from_secs(10)).await.unwrap();
    }
}
