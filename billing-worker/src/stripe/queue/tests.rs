use std::{future::Future, pin::pin, time::Duration};

use futures_util::{future::join_all, poll};

use super::*;

fn queue(per_second: u32) -> Queue {
    let settings = StripeSettings {
        stripe_secret_key: None,
        stripe_api_base: String::new(),
        stripe_timeout: Duration::ZERO,
        stripe_calls_per_second: per_second,
        stripe_reads_per_second: None,
        stripe_writes_per_second: None,
        stripe_meter_events_per_second: per_second,
        automatic_tax: false,
    };
    Queue::new(&settings, QueueMetrics::default())
}

fn read(queue: &Queue, class: Class, account: AccountId) -> impl Future<Output = Result<(), StripeError>> {
    queue.admit(Limit::Reads, class, Some(account))
}

#[tokio::test]
async fn calls_wait_for_their_own_rate_only() {
    let (queue, ada) = (queue(1), AccountId::new());
    for limit in [Limit::Reads, Limit::Writes, Limit::MeterEvents] {
        let mut first = pin!(queue.admit(limit, Class::Change, Some(ada)));
        assert!(poll!(&mut first).is_ready(), "{limit:?}");
        let mut second = pin!(queue.admit(limit, Class::Change, Some(ada)));
        assert!(poll!(&mut second).is_pending(), "{limit:?}");
    }
}

#[tokio::test]
async fn a_full_queue_refuses_at_once_and_empties() {
    let (queue, ada) = (queue(5), AccountId::new());
    let calls = (0..40).map(|_| read(&queue, Class::Change, ada));
    let answers = join_all(calls).await;
    let refused = answers
        .iter()
        .filter(|answer| **answer == Err(StripeError::Full))
        .count();
    // One at once, and four that waited. A slow machine may admit some before it has asked for all.
    assert!((30..=35).contains(&refused), "{refused}");
    assert_eq!(queue.inner.metrics.waiting(Class::Change), 0);
    assert!(read(&queue, Class::Change, ada).await.is_ok());
}

#[tokio::test]
async fn a_caller_that_leaves_makes_room_and_loses_no_call() {
    let (queue, ada, bob) = (queue(1), AccountId::new(), AccountId::new());
    read(&queue, Class::Change, ada).await.unwrap();
    let mut leaves = Box::pin(read(&queue, Class::Change, ada));
    let mut waits = Box::pin(read(&queue, Class::Change, bob));
    assert!(poll!(&mut leaves).is_pending() && poll!(&mut waits).is_pending());
    assert_eq!(queue.inner.metrics.waiting(Class::Change), 2);
    drop(leaves);
    assert_eq!(queue.inner.metrics.waiting(Class::Change), 1);
    waits.await.unwrap();
    let waiters = queue.waiters(Limit::Reads);
    assert!(waiters.bucket.order.is_empty());
}

#[tokio::test]
async fn a_call_that_is_admitted_and_not_made_counts() {
    let (queue, ada) = (queue(1), AccountId::new());
    // It is admitted at once, and its caller leaves before it sees that.
    drop(queue.enter(Limit::Reads, Class::Change, Some(ada)).unwrap());
    assert_eq!(queue.inner.metrics.waiting(Class::Change), 0);
    let mut next = pin!(read(&queue, Class::Change, ada));
    assert!(poll!(&mut next).is_pending());
}

#[tokio::test]
async fn the_timer_ends_with_the_last_call() {
    let queue = queue(50);
    let calls = (0..30).map(|_| read(&queue, Class::Report, AccountId::new()));
    assert!(join_all(calls).await.iter().all(Result::is_ok));
    queue.inner.timers.close();
    queue.inner.timers.wait().await;
    assert!(!queue.waiters(Limit::Reads).has_timer);
}
