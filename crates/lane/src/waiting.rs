//! The entries in a lane's queue that wait for their message.

use std::sync::Arc;

use schema::RunId;
use tokio::{sync::mpsc, time::Instant};

use crate::{
    gathered::{BatchLimits, Entry, Gathered},
    outgoing::{PublishOutcome, Units},
    publisher::Gate,
};

pub(crate) struct Waiting<U> {
    pub gate: Arc<Gate>,
    queue: mpsc::Receiver<Entry<U>>,
    /// An entry that was taken from the queue but did not fit into the message.
    held_over: Option<Entry<U>>,
}

impl<U: Units> Waiting<U> {
    pub(crate) fn new(gate: Arc<Gate>, queue: mpsc::Receiver<Entry<U>>) -> Self {
        Self {
            gate,
            queue,
            held_over: None,
        }
    }

    /// Takes all waiting entries, up to the limits. Waits for the first one. `None`: all senders are gone.
    pub(crate) async fn gather(&mut self, limits: BatchLimits) -> Option<Gathered<U>> {
        if !self.arrived().await {
            return None;
        }
        Some(self.gather_now(limits))
    }

    /// Waits until an entry is waiting. False: all senders are gone. Dropping the future loses no entry.
    pub(crate) async fn arrived(&mut self) -> bool {
        if self.held_over.is_none() {
            self.held_over = self.next().await;
        }
        self.held_over.is_some()
    }

    /// Takes all waiting entries, up to the limits.
    pub(crate) fn gather_now(&mut self, limits: BatchLimits) -> Gathered<U> {
        let mut gathered = Gathered::default();
        let mut next = self.held_over.take();
        while let Some(entry) = next {
            if let Err(entry) = gathered.push(entry, limits) {
                self.held_over = Some(entry);
                break;
            }
            if gathered.is_full(limits) {
                break;
            }
            next = self.queue.try_recv().ok().inspect(|entry| self.gate.left(entry));
        }
        gathered
    }

    async fn next(&mut self) -> Option<Entry<U>> {
        self.queue.recv().await.inspect(|entry| self.gate.left(entry))
    }

    /// Reports "not stored" to all waiting entries and to all that still arrive. At the deadline, reports "unknown" to
    /// `gathered`. Never ends.
    pub(crate) async fn refuse_while_stuck(&mut self, gathered: &mut Gathered<U>, deadline: Instant) {
        let refusing = async {
            self.refuse_all(PublishOutcome::NotStored).await;
            std::future::pending::<()>().await
        };
        let stop_waiting = async {
            tokio::time::sleep_until(deadline).await;
            gathered.stop_waiting();
            std::future::pending::<()>().await
        };
        tokio::join!(refusing, stop_waiting);
    }

    /// The lane has ended. Accepts no new slots, and refuses the entries that already have one.
    pub(crate) async fn refuse_until_the_end(mut self, run: RunId) {
        self.queue.close();
        self.refuse_all(PublishOutcome::RunEnded(run)).await;
    }

    async fn refuse_all(&mut self, outcome: PublishOutcome) {
        if let Some(entry) = self.held_over.take() {
            entry.settle(outcome);
        }
        while let Some(entry) = self.next().await {
            entry.settle(outcome);
        }
    }
}
